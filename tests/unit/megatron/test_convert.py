"""`slimrl convert`: to Megatron's format and back, nothing changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimrl.cli.convert import main
from slimrl.errors import CheckpointError, ConfigError, UsageError

Lines = pytest.CaptureFixture[str]


def convert(to: str, source: Path, output: Path, *more: str) -> None:
    assert main(["--to", to, "--input", str(source), "--output", str(output), *more]) == 0


def assert_same_weights(folder: Path, original: Path) -> None:
    written, expected = load_file(folder / "model.safetensors"), load_file(original / "model.safetensors")
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype is tensor.dtype, name
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("family", ["llama-tied", "glm4", "qwen3-moe", "deepseek-v3"])
def test_there_and_back_is_the_same_to_the_last_bit(
    family: str, checkpoints: dict[str, Path], tmp_path: Path, capfd: Lines
) -> None:
    convert("megatron", checkpoints[family], tmp_path / "megatron")
    convert("hf", tmp_path / "megatron", tmp_path / "hf")
    assert capfd.readouterr().out == f"{tmp_path / 'megatron'}\n{tmp_path / 'hf'}\n"
    assert (tmp_path / "megatron" / "latest_checkpointed_iteration.txt").read_text() == "release\n"
    assert_same_weights(tmp_path / "hf", checkpoints[family])
    before, after = (json.loads((path / "config.json").read_text()) for path in (checkpoints[family], tmp_path / "hf"))
    assert after == before | {"dtype": "float32"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "megatron"]


def test_bfloat16_stays_bfloat16_beside_a_float32_router_bias(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoints["deepseek-v3"], source)
    weights = load_file(source / "model.safetensors")
    narrow = {name: t if name.endswith("correction_bias") else t.bfloat16() for name, t in weights.items()}
    save_file(narrow, source / "model.safetensors", {"format": "pt"})
    convert("megatron", source, tmp_path / "megatron")
    convert("hf", tmp_path / "megatron", tmp_path / "hf")
    assert_same_weights(tmp_path / "hf", source)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "flag", "size"),
    [("deepseek-v3", "tensor", 2), ("qwen3-tied", "pipeline", 3)],
    ids=["tensor", "pipeline"],
)
def test_ranks_that_share_a_model_write_the_same(
    family: str, flag: str, size: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    convert("megatron", checkpoints[family], tmp_path / "megatron", f"--{flag}-model-parallel-size", str(size))
    assert len(list((tmp_path / "megatron" / "release").glob(f"__{size - 1}_*.distcp"))) > 0
    convert("hf", tmp_path / "megatron", tmp_path / "hf")
    assert_same_weights(tmp_path / "hf", checkpoints[family])


def test_a_training_folder_of_megatron_is_read_with_the_config_of_another(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    convert("megatron", checkpoints["llama"], tmp_path / "converted")
    trained = tmp_path / "trained"
    trained.mkdir()
    (tmp_path / "converted" / "release").rename(trained / "iter_0000040")
    (trained / "latest_checkpointed_iteration.txt").write_text("40")
    with pytest.raises(CheckpointError, match=r"has no config.json, .*--hf-checkpoint"):
        convert("hf", trained, tmp_path / "hf")
    convert("hf", trained, tmp_path / "hf", "--hf-checkpoint", str(checkpoints["llama"]))
    assert_same_weights(tmp_path / "hf", checkpoints["llama"])


def test_another_models_weights_are_refused_and_nothing_is_left(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    convert("megatron", checkpoints["llama"], tmp_path / "megatron")
    with pytest.raises(
        CheckpointError, match=r"lacks 2 tensors of the model, the first decoder.layers.self_attention.k_"
    ):
        convert("hf", tmp_path / "megatron", tmp_path / "hf", "--hf-checkpoint", str(checkpoints["qwen3"]))
    assert [path.name for path in tmp_path.iterdir()] == ["megatron"]


def test_what_cannot_be_converted_is_said(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    llama = checkpoints["llama"]
    with pytest.raises(CheckpointError, match=r"no distributed checkpoint of Megatron .*--ckpt-format torch_dist"):
        convert("hf", llama, tmp_path / "out")
    with pytest.raises(UsageError) as refused:
        convert("megatron", llama, tmp_path / "out", "--tensor-model-parallel-size", "5")
    assert refused.value.problems[0] == "--tensor-model-parallel-size 5 does not divide the model's 6 attention heads"
    with pytest.raises(UsageError, match="--pipeline-model-parallel-size 2 does not divide the model's 3 layers"):
        convert("megatron", llama, tmp_path / "out", "--pipeline-model-parallel-size", "2")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ConfigError, match=r"'mamba' cannot be trained; there are: llama, mistral, .*deepseek_v3"):
        convert("megatron", strange, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["strange"]


def test_weights_in_two_number_formats_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoints["llama"], source)
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()
    save_file(weights, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"float32 and model.norm.weight is torch.bfloat16"):
        convert("megatron", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "--to is required: megatron or hf"),
        ("--to hf", "--input is required"),
        ("--to hf --input nowhere", "--input nowhere: there is no such folder"),
        ("--to hf --output {full}", "{full} is there and not an empty folder; give another"),
        ("--to hf --output {full}/a/b", "there is no folder {full}/a"),
        ("--to hf --tensor-model-parallel-size 2", "--tensor-model-parallel-size has no effect with --to hf"),
        ("--to megatron --pipeline-model-parallel-size 0", "--pipeline-model-parallel-size 0: expected 1 or more"),
        ("--to megatron --hf-checkpoint {full}", "--hf-checkpoint has no effect with --to megatron"),
        ("--to onnx", "--to takes one of megatron, hf; got 'onnx'"),
    ],
)
def test_every_wrong_flag_is_named(words: str, problem: str, checkpoints: dict[str, Path]) -> None:
    full = str(checkpoints["llama"])
    with pytest.raises(UsageError) as refused:
        main(words.format(full=full).split())
    assert any(re.search(problem.format(full=re.escape(full)), one) for one in refused.value.problems), refused.value


def test_help_names_every_flag(capsys: Lines) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--to", "--input", "--output", "--hf-checkpoint", "--tensor-model-parallel"))
