"""On-policy distillation: how far a teacher moves the advantages of the tokens that the policy wrote."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimrl.config.grpo import GrpoConfig
from slimrl.errors import TrainError
from slimrl.megatron.known import Known
from slimrl.types import TrainBatch


@dataclass(frozen=True)
class Distillation:
    """The gradient of the reverse KL divergence from a teacher, as a part of the advantages.

    With log p of the policy that wrote a token and log q of the teacher, E[log p - log q] over what the policy writes
    is the divergence, and its gradient is that of a policy whose reward for a token is log q - log p, with no discount
    (Agarwal et al. 2024, arXiv:2306.13649, and Lu 2025, https://thinkingmachines.ai/blog/on-policy-distillation/).
    """

    coef: float
    takes_engines: bool
    """Whether the engine's log-probs are taken for the policy's."""

    @classmethod
    def of(cls, grpo: GrpoConfig) -> Distillation | None:
        """What the settings say; None without --use-opd."""
        return cls(grpo.opd_kl_coef, bool(grpo.use_rollout_logprobs)) if grpo.use_opd else None

    def gap(self, batch: TrainBatch, known: Known) -> NDArray[np.float32]:
        """[trained tokens] log p - log q."""
        student, teacher = batch.log_probs if self.takes_engines else known.log_probs, known.teacher_log_probs
        assert student is not None and teacher is not None, "computed with --use-opd"
        trained = np.flatnonzero(batch.loss_mask)
        found: NDArray[np.float32] = student[trained] - teacher[trained]
        if not np.isfinite(found).all():
            raise TrainError(f"step {batch.step}: a log-prob of the teacher or the policy is not finite")
        return found

    def metrics(self, batch: TrainBatch, known: Known) -> dict[str, float]:
        """The mean of log p - log q: an estimate of the divergence."""
        gap = self.gap(batch, known)
        return {"train/opd_reverse_kl": float(gap.mean(dtype=np.float64))} if len(gap) else {}


def teachers_answers(batch: TrainBatch) -> NDArray[np.float32]:
    """[response tokens] what the teacher's engine said, which came with the batch."""
    if batch.teacher_log_probs is None:
        raise TrainError(
            f"step {batch.step}: the batch came without teacher_log_probs, which --opd-type sglang needs; a function "
            "that makes a batch must keep them"
        )
    return batch.teacher_log_probs
