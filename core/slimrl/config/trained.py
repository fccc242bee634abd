"""Which of the model's parameters are trained, or which adapters in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class TrainedConfig:
    """What is trained: all parameters, some by name, or low-rank adapters (LoRA) beside frozen weights."""

    lora_rank: int | None = None
    """Train low-rank adapters of this rank (LoRA) and leave the model's weights as they are. Unset: train the weights."""
    lora_alpha: float | None = None
    """Adapters are scaled by this over --lora-rank. Default: twice --lora-rank."""
    lora_target_modules: tuple[str, ...] = (ALL_LINEAR,)
    """Linear layers that get adapters, by their Hugging Face names (q_proj, gate_proj, ...); all-linear: all of them, but of models with experts those of attention alone."""
    only_train_params_name_list: tuple[str, ...] = ()
    """Regular expressions: only parameters with a match in their Megatron name are trained."""
    freeze_params_name_list: tuple[str, ...] = ()
    """Regular expressions: parameters with a match in their Megatron name are not trained."""

    @property
    def lora_scale(self) -> float:
        """What the product of an adapter's matrices is multiplied by."""
        assert self.lora_rank is not None, "asked only with adapters"
        return 2.0 if self.lora_alpha is None else self.lora_alpha / self.lora_rank

    def trains(self, name: str) -> bool:
        """Whether the parameter of that Megatron name is trained."""
        if self.lora_rank is not None:
            return False
        only, frozen = self.only_train_params_name_list, self.freeze_params_name_list
        if only:
            return any(re.search(pattern, name) for pattern in only)
        return not any(re.search(pattern, name) for pattern in frozen)


ALL_PARAMETERS = TrainedConfig()


def check_trained(config: TrainedConfig) -> Iterator[str]:
    """Every broken rule, one sentence each."""
    lists = {
        "--only-train-params-name-list": config.only_train_params_name_list,
        "--freeze-params-name-list": config.freeze_params_name_list,
    }
    given = [flag for flag, patterns in lists.items() if patterns]
    for flag in given:
        for pattern in lists[flag]:
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"{flag}: {pattern!r} is not a regular expression: {error}"
    if len(given) == 2:
        yield f"{given[0]} and {given[1]} both say what is trained; leave one out"
    if config.lora_rank is None:
        if config.lora_alpha is not None:
            yield f"--lora-alpha {config.lora_alpha:g} has no effect without --lora-rank"
        if config.lora_target_modules != (ALL_LINEAR,):
            yield f"--lora-target-modules {' '.join(config.lora_target_modules)} has no effect without --lora-rank"
        return
    for flag in given:
        yield f"{flag} has no effect with --lora-rank, which trains adapters alone; leave one out"
    targets = config.lora_target_modules
    if not targets or (ALL_LINEAR in targets and len(targets) > 1):
        yield f"--lora-target-modules takes names of linear layers, or {ALL_LINEAR} alone; got: {' '.join(targets)}"
