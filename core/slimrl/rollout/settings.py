"""What the rollout manager reads of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from slimrl.config import EvalConfig, RolloutConfig
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.prompt_files import PromptFileSpec
from slimrl.rollout.loop import FillSettings
from slimrl.scoring.settings import ScoringSettings
from slimrl.types import SamplingParams

T = TypeVar("T")


@dataclass(frozen=True)
class RolloutSettings:
    """The rollout's share of a resolved configuration; crosses to the manager's process."""

    rollout: RolloutConfig
    eval: EvalConfig
    hf_checkpoint: Path
    vocab_size: int | None
    prompt_data: tuple[PromptFileSpec, ...]
    batch_size: int
    max_response_len: int
    concurrency: int
    deterministic: bool
    use_tensorboard: bool
    eval_sets: tuple[EvalDataset, ...] = ()
    health_check_interval_s: float = 30.0
    health_check_timeout_s: float = 30.0
    teacher_url: str | None = None
    """The engine of a teacher, which is asked for log-probs of every sample."""

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
            max_context_len=_first(config.rollout_max_context_len, None, self._model_context_len()),
        )

    def eval_sampling(self, own: EvalDataset) -> SamplingParams:
        """Sampling parameters of an evaluation set: its own, else evaluation's, else the rollout's."""
        rollout, config = self.sampling(), self.eval
        return replace(
            rollout,
            max_new_tokens=_first(own.max_response_len, config.eval_max_response_len, rollout.max_new_tokens),
            temperature=_first(own.temperature, config.eval_temperature, rollout.temperature),
            top_p=_first(own.top_p, config.eval_top_p, rollout.top_p),
            top_k=_first(own.top_k, config.eval_top_k, rollout.top_k),
            stop=_first(own.stop, None, rollout.stop),
            stop_token_ids=_first(own.stop_token_ids, None, rollout.stop_token_ids),
            min_new_tokens=_first(own.min_new_tokens, config.eval_min_new_tokens, rollout.min_new_tokens),
            max_context_len=_first(own.max_context_len, config.eval_max_context_len, rollout.max_context_len),
        )

    def _model_context_len(self) -> int | None:
        return open_hf_folder(self.hf_checkpoint, "--hf-checkpoint").max_positions

    def fill(self) -> FillSettings:
        """How a batch is filled."""
        config = self.rollout
        return FillSettings(
            wanted=self.batch_size,
            in_flight=config.over_sampling_batch_size or self.batch_size,
            max_finished=self.batch_size * config.max_sampling_rounds,
            in_order=self.deterministic,
            max_unscored_fraction=config.max_unscored_fraction,
            stop_on_unscored=config.on_unscored == "stop",
            falls_back=config.on_insufficient == "fallback",
        )

    def scoring(self) -> ScoringSettings:
        """How samples are scored."""
        config = self.rollout
        return ScoringSettings(
            num_workers=config.rm_workers,
            timeout_s=config.rm_timeout,
            cache_size=config.rm_cache_size,
            retries=int(config.on_unscored == "retry"),
        )


def _first(own: T | None, general: T | None, otherwise: T) -> T:
    if own is not None:
        return own
    return otherwise if general is None else general
