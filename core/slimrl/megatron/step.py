"""One optimizer step of a rollout: what is computed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimrl.megatron.micro_batch import Pack


@dataclass(frozen=True)
class Step:
    """The samples of a step, and those of them that need a pass."""

    packs: list[Pack]
    """Those of this process."""
    computed: list[int]
    """The samples that are in the packs of all processes."""
    num_samples: int
    share: float
    """One over the step's rollouts, or with --calculate-per-token-loss over its trained tokens."""
    weight: float = 1.0
    """What its tokens' weights add up to where the loss is divided by a constant: shares of tokens are over it."""

    @property
    def num_skipped(self) -> int:
        """Samples whose forward pass cannot change the gradient."""
        return self.num_samples - len(self.computed)


def passes_of(steps: Sequence[Step]) -> dict[str, float]:
    """Metrics of this process's passes."""
    packs = [pack for step in steps for pack in step.packs]
    return {
        "train/num_tokens": float(sum(len(pack) for pack in packs)),
        "train/num_input_tokens": float(sum(pack.num_sample_tokens for pack in packs)),
        "train/num_computed_tokens": float(sum(pack.num_nodes for pack in packs)),
        "train/num_micro_batches": float(len(packs)),
    }


def samples_of(steps: Sequence[Step]) -> dict[str, float]:
    """Metrics of the samples, of all processes."""
    return {
        "train/num_samples": float(sum(step.num_samples for step in steps)),
        "train/num_skipped_samples": float(sum(step.num_skipped for step in steps)),
    }
