"""Weights beside the policy's, refused before anything starts where the policy's model cannot take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimrl.cli.other_weights import check_other_weights
from slimrl.config import CkptConfig

POLICY = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def folder_of(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(POLICY | changes))
    return path


@pytest.mark.parametrize("flag", ["load", "ref_load", "critic_load"])
@pytest.mark.parametrize("inner", ["", "model"])
def test_weights_of_another_size_are_named_with_the_numbers(flag: str, inner: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "other" / inner, num_hidden_layers=3, vocab_size=101)
    ckpt = CkptConfig(hf_checkpoint=tmp_path / "policy", **{flag: tmp_path / "other"})
    (said,) = check_other_weights(ckpt, POLICY)
    assert said.startswith(f"--{flag.replace('_', '-')} {tmp_path}/other is a model of another size than")
    assert said.endswith("num_layers 3, not 2, vocab_size 101, not 100")


def test_what_changes_no_tensor_is_no_matter(tmp_path: Path) -> None:
    other = folder_of(tmp_path / "other", max_position_embeddings=64, rope_theta=5e5, model_type="mistral")
    assert list(check_other_weights(CkptConfig(ref_load=other), POLICY)) == []


def test_a_model_that_cannot_be_trained_is_named_and_one_without_a_config_is_left_to_the_trainer(
    tmp_path: Path,
) -> None:
    (said,) = check_other_weights(CkptConfig(ref_load=folder_of(tmp_path / "a", model_type="gpt2")), POLICY)
    assert said.startswith(f"--ref-load {tmp_path}/a: model type 'gpt2' cannot be trained")
    (said,) = check_other_weights(CkptConfig(ref_load=folder_of(tmp_path / "b", hidden_size=None)), POLICY)
    assert said.startswith(f"--ref-load {tmp_path}/b: the checkpoint's config.json has a size that is none")
    assert list(check_other_weights(CkptConfig(ref_load=tmp_path), POLICY)) == []
