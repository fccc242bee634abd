"""EVAL_ARGS: evaluation while training; what is unset is taken from the rollout's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on held-out prompts."""

    eval_interval: int | None = None
    """Rollout steps between evaluations; also one before the first step and one after the last."""
    eval_prompt_data: tuple[str, ...] = ()
    """Data sets as pairs: name path [name path ...]."""
    eval_config: Path | None = None
    """YAML or TOML file of data sets with rewards, generators, keys and sampling of their own, instead of --eval-prompt-data."""
    n_samples_per_eval_prompt: int = 1
    """Responses per evaluation prompt."""
    eval_input_key: str | None = None
    """Key of the prompt. Default: --input-key."""
    eval_label_key: str | None = None
    """Key of the ground truth. Default: --label-key."""
    eval_tool_key: str | None = None
    """Key of the tool schemas. Default: --tool-key."""
    eval_max_response_len: int | None = None
    """New tokens at most in one response. Default: --rollout-max-response-len."""
    eval_temperature: float | None = None
    """Sampling temperature; 0 is greedy. Default: --rollout-temperature."""
    eval_top_p: float | None = None
    """Nucleus sampling threshold. Default: --rollout-top-p."""
    eval_top_k: int | None = None
    """Sample among the k likeliest tokens. Default: --rollout-top-k."""
    eval_min_new_tokens: int | None = None
    """New tokens at least in one response: no end before. Default: none."""
    eval_max_prompt_len: int | None = None
    """Prompt tokens at most; longer prompts are an error that names the row. Default: --rollout-max-prompt-len."""
    eval_max_context_len: int | None = None
    """Tokens at most of prompt and response together. Default: --rollout-max-context-len."""
    eval_reward_key: str | None = None
    """Which of a reward's named components is looked at. Default: --reward-key."""
    eval_pass_threshold: float = 1.0
    """A response passes, in pass@k, with a reward of this or more."""
    eval_function_path: str | None = None
    """Function that evaluates in place of slimrl: pkg.mod:attr or file.py:attr."""
    custom_eval_rollout_log_function_path: str | None = None
    """Function that sees an evaluation and its metrics; where it returns True, slimrl does not log them."""
    log_passrate: bool = False
    """Report pass@k of the training groups too, as rollout/pass@k."""
    skip_eval_before_train: bool = False
    """Leave out the evaluation before the first step."""
