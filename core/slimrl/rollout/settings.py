"""What the rollout manager reads of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slimrl.config import EvalConfig, RolloutConfig
from slimrl.types import SamplingParams


@dataclass(frozen=True)
class RolloutSettings:
    """The rollout's share of a resolved configuration; crosses to the manager's process."""

    rollout: RolloutConfig
    eval: EvalConfig
    hf_checkpoint: Path
    prompt_data: Path
    batch_size: int
    max_response_len: int
    concurrency: int
    deterministic: bool
    use_tensorboard: bool

    def sampling(self) -> SamplingParams:
        """Sampling parameters of training responses."""
        config = self.rollout
        return SamplingParams(
            max_new_tokens=self.max_response_len,
            temperature=config.rollout_temperature,
            top_p=config.rollout_top_p,
            top_k=config.rollout_top_k,
            stop=config.rollout_stop,
            stop_token_ids=config.rollout_stop_token_ids,
        )

    def eval_sampling(self) -> SamplingParams:
        """Sampling parameters of evaluation: the rollout's, where evaluation says nothing else."""
        given = {
            "max_new_tokens": self.eval.eval_max_response_len,
            "temperature": self.eval.eval_temperature,
            "top_p": self.eval.eval_top_p,
            "top_k": self.eval.eval_top_k,
        }
        return replace(self.sampling(), **{name: value for name, value in given.items() if value is not None})
