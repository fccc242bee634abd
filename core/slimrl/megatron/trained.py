"""How many of a model's numbers are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimrl.config.trained import TrainedConfig

NEVER = "router.expert_bias"
"""Reinforcement learning keeps the routing that pre-training balanced."""


def count_trained(hf_config: Mapping[str, Any], sizes: Mapping[str, int], trained: TrainedConfig) -> int:
    """Numbers of the parameters whose Megatron names are trained; `sizes`: of each tensor of the checkpoint."""
    # the rules bring torch, which a plan without lists of names has no use for
    from slimrl.megatron.convert.family import rules_for
    from slimrl.megatron.shape import model_shape

    return sum(
        sizes.get(name, 0)
        for rule in rules_for(model_shape(hf_config))
        if trained.trains(rule.megatron) and not rule.megatron.endswith(NEVER)
        for name in rule.hf
    )
