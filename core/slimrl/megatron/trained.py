"""Which of a model's parameters are trained, and how many numbers they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from slimrl.config.trained import TrainedConfig
from slimrl.errors import ConfigError

NEVER = "router.expert_bias"
"""Reinforcement learning keeps the routing that pre-training balanced."""


def check_lists(names: Sequence[str], config: TrainedConfig) -> None:
    """Raise ConfigError for a pattern that fits none of a model's parameters, by their Megatron names."""
    for flag in ("only_train_params_name_list", "freeze_params_name_list"):
        for pattern in getattr(config, flag):
            if not any(re.search(pattern, name) for name in names):
                raise ConfigError(
                    f"--{flag.replace('_', '-')}: no parameter of the model fits {pattern!r}; they are named like "
                    f"{names[0]} and {names[-2]}"
                )


def count_trained(hf_config: Mapping[str, Any], sizes: Mapping[str, int], trained: TrainedConfig) -> int:
    """Numbers of the parameters whose Megatron names are trained; `sizes`: of each tensor of the checkpoint.

    Raises ConfigError where a pattern fits nothing, or nothing is left to train.
    """
    # the rules bring torch, which a plan without lists of names has no use for
    from slimrl.megatron.convert.family import rules_for
    from slimrl.megatron.shape import model_shape

    rules = rules_for(model_shape(hf_config))
    check_lists([rule.megatron for rule in rules], trained)
    count = sum(
        sizes.get(name, 0)
        for rule in rules
        if trained.trains(rule.megatron) and not rule.megatron.endswith(NEVER)
        for name in rule.hf
    )
    if not count:
        raise ConfigError(
            "--freeze-params-name-list or --only-train-params-name-list leaves no parameter of the model to train"
        )
    return count
