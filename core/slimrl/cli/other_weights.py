"""Weights that are loaded into the policy's model: whether its tensors have their sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from slimrl.config import CkptConfig
from slimrl.errors import ConfigError
from slimrl.megatron.shape import model_shape

SIZES: Final = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    "vocab_size",
)
"""What the tensors of two models must have in common."""


def check_other_weights(ckpt: CkptConfig, hf_config: Mapping[str, Any]) -> Iterator[str]:
    """Why --load, --ref-load or --critic-load is no model of the size that the policy's HF config describes."""
    try:
        policy = model_shape(hf_config)
    except ConfigError:
        return  # reported with the policy
    for flag, folder in (("--load", ckpt.load), ("--ref-load", ckpt.ref_load), ("--critic-load", ckpt.critic_load)):
        found = None if folder is None else _described(folder)
        if found is None:
            continue
        try:
            other = model_shape(found)
        except ConfigError as error:
            yield from (f"{flag} {folder}: {problem}" for problem in error.problems)
            continue
        sizes = [(name, getattr(other, name), getattr(policy, name)) for name in SIZES]
        if differing := [f"{name} {own}, not {wanted}" for name, own, wanted in sizes if own != wanted]:
            yield (
                f"{flag} {folder} is a model of another size than --hf-checkpoint {ckpt.hf_checkpoint}: "
                f"{', '.join(differing)}"
            )


def _described(folder: Path) -> Mapping[str, Any] | None:
    """The HF config beside weights; None where there is none to compare, as of some folders of Megatron."""
    for file in (folder / "model" / "config.json", folder / "config.json"):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # reported when it is loaded
            continue
        if isinstance(found, dict):
            return found
    return None
