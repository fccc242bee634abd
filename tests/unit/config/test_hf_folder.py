"""What can be read of a checkpoint folder without loading a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimrl.config.hf_folder import open_hf_folder
from slimrl.errors import CheckpointError


def test_parameters_are_counted_from_the_header(model_folder: Path) -> None:
    assert open_hf_folder(model_folder, "--hf-checkpoint").count_parameters() == 100 * 64 + 64
    assert open_hf_folder(model_folder, "--hf-checkpoint").count_parameters(without="norm") == 100 * 64


def test_only_the_files_that_the_index_names_are_counted(model_folder: Path) -> None:
    whole = model_folder / "model.safetensors"
    whole.rename(model_folder / "model-00001-of-00001.safetensors")
    (model_folder / "consolidated.safetensors").write_bytes(b"a second copy")
    index = {"weight_map": {"embed": "model-00001-of-00001.safetensors", "norm": "model-00001-of-00001.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_hf_folder(model_folder, "--hf-checkpoint").count_parameters() == 6464


def test_the_cache_of_a_token_is_keys_and_values_of_all_layers(model_folder: Path) -> None:
    assert open_hf_folder(model_folder, "--x").kv_numbers_per_token() == 2 * 2 * 2 * 16


@pytest.mark.parametrize("config", ["{}", '{"num_attention_heads": 0, "hidden_size": 64, "num_hidden_layers": 2}'])
def test_a_config_without_a_shape_has_no_known_cache(config: str, model_folder: Path) -> None:
    (model_folder / "config.json").write_text(config)
    folder = open_hf_folder(model_folder, "--x")
    assert folder.kv_numbers_per_token() is None
    assert folder.max_positions is None


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "holds no JSON object"),
        ("model.safetensors", None, "has no weights"),
    ],
)
def test_what_is_missing_or_broken_is_named(file: str, content: str | None, problem: str, model_folder: Path) -> None:
    (model_folder / file).unlink()
    if content is not None:
        (model_folder / file).write_text(content)
    with pytest.raises(CheckpointError, match="--hf-checkpoint") as caught:
        open_hf_folder(model_folder, "--hf-checkpoint")
    assert problem in str(caught.value)


@pytest.mark.parametrize("content", ['{"weight_map": {', "[]", '{"weight_map": []}', '{"weight_map": {"embed": 1}}'])
def test_an_index_of_weight_files_that_is_none_is_named(content: str, model_folder: Path) -> None:
    (model_folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"--x: .*model\.safetensors\.index\.json"):
        open_hf_folder(model_folder, "--x")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", b'{"chat_template": "'),
        ("tokenizer_config.json", b"[]"),
        ("chat_template.json", b"\xff"),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_a_chat_template_that_cannot_be_read_is_named(file: str, content: bytes, model_folder: Path) -> None:
    (model_folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        _ = open_hf_folder(model_folder, "--x").chat_template


def test_a_folder_without_a_tokenizer_is_refused(model_folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):  # the second alone has no tokens
        (model_folder / file).unlink()
        with pytest.raises(CheckpointError, match="has no tokenizer"):
            open_hf_folder(model_folder, "--hf-checkpoint")


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x02" + bytes(7) + b"[]", b"\x09" + bytes(7) + b"{}"])
def test_a_weight_file_that_is_cut_off_is_named(content: bytes, model_folder: Path) -> None:
    (model_folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        open_hf_folder(model_folder, "--x").count_parameters()


def test_a_download_that_stopped_says_how_much_is_there(model_folder: Path) -> None:
    file = model_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="bytes are there"):
        open_hf_folder(model_folder, "--x").count_parameters()


def test_a_folder_that_is_not_there_is_told_from_a_file(model_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_hf_folder(model_folder / "nowhere", "--x")
    with pytest.raises(CheckpointError, match="is a file"):
        open_hf_folder(model_folder / "config.json", "--x")
