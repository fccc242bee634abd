"""Weights are replaced whole or not at all, from files that are checked and never unpickled."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.params import RequestError
from slimrl.engines.embedded.shared_memory import parse_bucket
from slimrl.engines.embedded.updates import WeightUpdates
from slimrl.errors import EngineError


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that weights may be read from."""
    folder = Path(tempfile.mkdtemp(prefix="slimrl-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def engine(tiny_llama: Path, open_engine: Any) -> Engine:
    return open_engine(tiny_llama)


def _bucket(path: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> str:
    entries, content = [], bytearray()
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append({"name": name, "dtype": dtype, "shape": list(tensor.shape), "offset": len(content), **changes})
        content += tensor.contiguous().view(torch.uint8).numpy().tobytes()
        content += bytes(-len(content) % 64)
    path.write_bytes(content)
    return json.dumps({"path": str(path), "tensors": entries})


def _send(engine: Engine, *texts: str, version: str | None = None, load_format: str | None = "shared_memory") -> None:
    updates = WeightUpdates(engine)
    engine.scheduler.call(updates.begin).result()
    for text in texts:
        engine.scheduler.call(lambda text=text: updates.from_buckets([text], load_format, version)).result()
    engine.scheduler.call(updates.end).result()


def test_a_bucket_replaces_what_it_names(engine: Engine, shared: Path, ask: Any) -> None:
    before = engine.runner.weights.checksums()
    name = "model.layers.1.self_attn.k_proj.weight"
    other = torch.randn(engine.runner.weights[name].shape)
    _send(engine, _bucket(shared / "b", {name: other}), version="3")
    assert torch.equal(engine.runner.weights[name].read(), other)
    after = engine.runner.weights.checksums()
    assert [key for key in before if before[key] != after[key]] == [name]
    assert engine.scheduler.weight_version == "3"


def test_all_weights_in_two_buckets_make_another_model(
    engine: Engine, shared: Path, save_model: Any, open_engine: Any, ask: Any
) -> None:
    folder = save_model("llama", seed=7, tie_word_embeddings=True)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    rounded = folder.parent / "rounded"
    shutil.copytree(folder, rounded)
    save_file(tensors, rounded / "model.safetensors", metadata={"format": "pt"})
    names = sorted(tensors)
    first, second = ({name: tensors[name] for name in part} for part in (names[::2], names[1::2]))
    encoded = base64.b64encode(_bucket(shared / "b", first).encode()).decode()
    _send(engine, encoded, _bucket(shared / "c", second))
    ours, theirs = ask([5, 6, 7]), ask([5, 6, 7])
    engine.generate([ours])
    open_engine(rounded).generate([theirs])
    assert ours.output_ids == theirs.output_ids
    assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-5)


def test_a_tied_head_may_be_sent_under_either_name(engine: Engine, shared: Path) -> None:
    head = torch.randn(128, 48)
    _send(engine, _bucket(shared / "b", {"lm_head.weight": head}))
    assert torch.equal(engine.runner.weights["model.embed_tokens.weight"].read(), head)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "model.nothing"}, "no weight 'model.nothing'"),
        ({"shape": [47]}, r"shape \[47\]; the model's is \[48\]"),
        ({"offset": 64}, "ends at byte"),
        ({"offset": -4}, "not negative"),
        ({"offset": 2}, "no multiple of 4"),
        ({"dtype": "int8"}, "int8"),
        ({"shape": "48"}, "whole numbers"),
    ],
)
def test_a_bucket_with_anything_wrong_changes_nothing(
    changes: dict[str, Any], words: str, engine: Engine, shared: Path
) -> None:
    before = engine.runner.weights.checksums()
    good = json.loads(_bucket(shared / "b", {"model.norm.weight": torch.zeros(48)}))
    bad = {**good["tensors"][0], **changes}
    text = json.dumps({"path": good["path"], "tensors": [*good["tensors"], bad]})
    with pytest.raises(RequestError, match=words):
        _send(engine, text)
    assert engine.runner.weights.checksums() == before
    assert engine.scheduler.weight_version == "0"


def test_a_later_bad_bucket_says_what_is_in_place(engine: Engine, shared: Path) -> None:
    good = _bucket(shared / "b", {"model.norm.weight": torch.zeros(48)})
    with pytest.raises(RequestError, match="1 tensors of this update are in place already"):
        _send(engine, good, _bucket(shared / "c", {"model.nothing": torch.zeros(48)}))


@pytest.mark.parametrize("path", ["/etc/passwd", "relative", "/dev/shm/../../etc/passwd", "/dev/shm/absent"])
def test_files_elsewhere_are_not_read(path: str, engine: Engine) -> None:
    entry = {"name": "model.norm.weight", "dtype": "float32", "shape": [48], "offset": 0}
    with pytest.raises(RequestError, match=r"read from there only|cannot open"):
        _send(engine, json.dumps({"path": path, "tensors": [entry]}))


def test_a_link_out_of_the_folder_is_not_followed(engine: Engine, shared: Path) -> None:
    (shared / "link").symlink_to("/etc/passwd")
    with pytest.raises(RequestError, match="read from there only"):
        parse_bucket(json.dumps({"path": str(shared / "link"), "tensors": []})).tensors()
    with pytest.raises(RequestError, match="not a plain file"):
        parse_bucket(json.dumps({"path": str(shared), "tensors": []})).tensors()


@pytest.mark.parametrize(
    "text", ["", "{}", "no base64!", '{"path": 3, "tensors": []}', '{"path": "/dev/shm/x", "tensors": 3}']
)
def test_a_bucket_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="serialized_named_tensors must hold"):
        parse_bucket(text)


def test_pickles_are_refused_and_updates_are_bracketed(engine: Engine, shared: Path) -> None:
    text = _bucket(shared / "b", {"model.norm.weight": torch.zeros(48)})
    with pytest.raises(RequestError, match="unpickles nothing"):
        _send(engine, text, load_format=None)
    with pytest.raises(RequestError, match="no weight update is open"):
        WeightUpdates(engine).from_buckets([text], "shared_memory", None)


def _wrong_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.zeros(47)


def _missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.norm.weight"]


def _unknown(weights: dict[str, torch.Tensor]) -> None:
    weights["model.nothing"] = torch.zeros(1)


def _integers(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.zeros(48, dtype=torch.int32)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_wrong_shape, r"\[47\]"),
        (_missing, "lacks 1 weights, the first 'model.norm.weight'"),
        (_unknown, "no weight 'model.nothing'"),
        (_integers, "dtype I32"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    spoil: Any, words: str, engine: Engine, tiny_llama: Path, tmp_path: Path
) -> None:
    before = engine.runner.weights.checksums()
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(tiny_llama / "model.safetensors").items()}
    spoil(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=words):
        engine.scheduler.call(lambda: WeightUpdates(engine).from_disk(tmp_path, "9")).result()
    assert engine.runner.weights.checksums() == before
    assert engine.scheduler.weight_version == "0"


def test_a_truncated_file_or_another_model_changes_nothing(
    engine: Engine, tiny_llama: Path, tmp_path: Path, save_model: Any
) -> None:
    before = engine.runner.weights.checksums()
    content = (tiny_llama / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    other = save_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 77.0}, tie_word_embeddings=True)
    for folder, words in ((tmp_path, "cannot read weights"), (other, "another model"), (tmp_path / "no", "neither")):
        with pytest.raises(EngineError, match=words):
            engine.scheduler.call(lambda folder=folder: WeightUpdates(engine).from_disk(folder, None)).result()
    assert engine.runner.weights.checksums() == before


def test_the_fallback_takes_weights_from_disk_too(save_model: Any, open_engine: Any, ask: Any) -> None:
    engine, other = open_engine(save_model("gpt2")), open_engine(save_model("gpt2", seed=1))
    wide = save_model("gpt2", n_embd=64, hidden_size=64)
    with pytest.raises(EngineError):
        engine.scheduler.call(lambda: WeightUpdates(engine).from_disk(wide, None)).result()
    assert engine.runner.weights.checksums() != other.runner.weights.checksums()
    folder = other.options.model_path
    engine.scheduler.call(lambda: WeightUpdates(engine).from_disk(folder, "1")).result()
    assert engine.runner.weights.checksums() == other.runner.weights.checksums()


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3"])
def test_experts_are_sent_one_by_one_as_checkpoints_have_them(
    kind: str, shared: Path, save_model: Any, open_engine: Any
) -> None:
    sizes = {"num_key_value_heads": 4, "moe_intermediate_size": 24, "num_experts": 8, "n_routed_experts": 8}
    sizes |= {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12}
    engine, other = (open_engine(save_model(kind, seed=seed, first_k_dense_replace=1, **sizes)) for seed in (0, 1))
    tensors = load_file(other.options.model_path / "model.safetensors")
    assert any(".mlp.experts.7.up_proj." in name for name in tensors)
    _send(engine, _bucket(shared / "b", tensors))
    assert engine.runner.weights.checksums() == other.runner.weights.checksums()
