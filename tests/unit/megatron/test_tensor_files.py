"""Weight files: sharded as transformers shards them, and read by their index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from slimrl.errors import CheckpointError
from slimrl.megatron.checkpoint import read_config
from slimrl.megatron.convert.weights import export_weights, load_weights
from slimrl.megatron.shape import model_shape
from slimrl.megatron.tensor_files import INDEX, TensorReader, write_weights


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    reader = TensorReader(folder)
    return {name: reader.read(name) for name in reader.names()}


@pytest.mark.parametrize("max_bytes", [50_000, 10**9])
def test_weights_written_in_files_are_read_by_transformers(
    max_bytes: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = checkpoints["llama"]
    original = weights_in(source)
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    write_weights(tmp_path, sorted(original.items()), max_bytes=max_bytes)
    assert (tmp_path / INDEX).exists() == (max_bytes == 50_000)
    assert not list(tmp_path.glob("*.part"))
    assert all(torch.equal(tensor, original[name]) for name, tensor in weights_in(tmp_path).items())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.items())


def test_no_file_is_larger_than_it_may_be_but_for_one_large_tensor(tmp_path: Path) -> None:
    write_weights(
        tmp_path, [("large", torch.zeros(90)), *((f"w{i}", torch.zeros(10)) for i in range(5))], max_bytes=100
    )
    by_file = json.loads((tmp_path / INDEX).read_text())
    assert by_file["metadata"]["total_size"] == 4 * (90 + 50)
    files = list(by_file["weight_map"].values())
    assert [files.count(file) for file in sorted(set(files))] == [1, 2, 2, 1]


def test_weights_that_transformers_sharded_are_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3-moe"])
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / INDEX).exists()
    original = weights_in(checkpoints["qwen3-moe"])
    sharded = weights_in(tmp_path)
    assert sharded.keys() == original.keys()
    assert all(torch.equal(sharded[name], original[name]) for name in original)


def test_a_second_copy_of_the_weights_is_left_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    original = weights_in(checkpoints["llama"])
    write_weights(tmp_path, original.items())
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same in another layout")
    assert weights_in(tmp_path).keys() == original.keys()


def test_a_file_that_did_not_arrive_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    write_weights(tmp_path, weights_in(checkpoints["llama"]).items(), max_bytes=50_000)
    next(tmp_path.glob("model-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-.*which model.safetensors.index.json names"):
        TensorReader(tmp_path)


def test_layers_that_predict_further_tokens_are_left_out(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = checkpoints["deepseek-v3"]
    shape = model_shape(read_config(source))
    original = weights_in(source)
    further = {"model.layers.3.eh_proj.weight": torch.zeros(2, 2)}
    write_weights(tmp_path, (original | further).items())
    parameters = {}
    from slimrl.megatron.convert.place import WHOLE, local_rules

    for name, rule in local_rules(shape, WHOLE):
        parameters[name] = torch.empty_like(rule.join([original[part] for part in rule.hf], shape))
    load_weights(parameters, TensorReader(tmp_path), shape)
    exported = dict(export_weights(parameters, shape))
    assert exported.keys() == original.keys()
