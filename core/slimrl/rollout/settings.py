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
    vocab_size: int | None
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
        rollout, config = self.sampling(), self.eval
        length, temperature = config.eval_max_response_len, config.eval_temperature
        return replace(
            rollout,
            max_new_tokens=rollout.max_new_tokens if length is None else length,
            temperature=rollout.temperature if temperature is None else temperature,
            top_p=rollout.top_p if config.eval_top_p is None else config.eval_top_p,
            top_k=rollout.top_k if config.eval_top_k is None else config.eval_top_k,
        )
