"""A model folder and a prompt file, as small as the checks allow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slimrl.config import CkptConfig, Config, RolloutConfig

HF_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A checkpoint of two tensors, 100 x 64 and 64 numbers."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    header = {
        "__metadata__": {"format": "pt"},
        "embed": {"dtype": "F32", "shape": [100, 64], "data_offsets": [0, 25600]},
        "norm": {"dtype": "F32", "shape": [64], "data_offsets": [25600, 25856]},
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(25856))
    return folder


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    """Two prompts."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"input": "1 + 1", "label": "2"}\n{"input": "1 + 2", "label": "3"}\n')
    return path


Make = Callable[..., Config]


@pytest.fixture
def make_config(model_folder: Path, prompt_file: Path) -> Make:
    """A configuration that can run, with whole categories replaced by keyword and rollout fields given flat."""

    def make(**changes: object) -> Config:
        rollout = RolloutConfig(
            prompt_data=(str(prompt_file),),
            rollout_batch_size=8,
            n_samples_per_prompt=8,
            num_rollout=3,
            rollout_max_response_len=16,
            rm_type="math",
        )
        categories = {name: value for name, value in changes.items() if name in Config.__dataclass_fields__}
        fields = {name: value for name, value in changes.items() if name not in categories}
        base = Config(ckpt=CkptConfig(hf_checkpoint=model_folder), rollout=replace(rollout, **fields))
        return replace(base, **categories)

    return make
