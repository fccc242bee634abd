"""The range of every number in the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slimrl.config import Config
from slimrl.config.settings import flatten


@dataclass(frozen=True)
class Range:
    """What a number may be, in words and as a rule."""

    words: str
    holds: Callable[[float], bool]


COUNT = Range("at least 1", lambda x: x >= 1)
NOT_NEGATIVE = Range("0 or more", lambda x: x >= 0)
ABOVE_ONE = Range("more than 1", lambda x: x > 1)
POSITIVE = Range("more than 0", lambda x: x > 0)
TOP_P = Range("more than 0 and at most 1", lambda x: 0 < x <= 1)
TOP_K = Range("-1 (all) or at least 1", lambda x: x == -1 or x >= 1)
SHARE = Range("from 0 to 1", lambda x: 0 <= x <= 1)
DECAY = Range("from 0 to below 1", lambda x: 0 <= x < 1)
FINITE = Range("a finite number", lambda x: True)
# numpy's and torch's seeds are unsigned, and the engine's are of 32 bits
SEED = Range("from 0 to 2147483647", lambda x: 0 <= x < 2**31)

RANGES: Mapping[str, Range] = {
    "save_interval": COUNT,
    "max_checkpoints_to_keep": COUNT,
    "ckpt_step": NOT_NEGATIVE,
    "lora_rank": COUNT,
    "lora_alpha": POSITIVE,
    "rollout_seed": SEED,
    "rollout_batch_size": COUNT,
    "n_samples_per_prompt": COUNT,
    "global_batch_size": COUNT,
    "num_steps_per_rollout": COUNT,
    "num_rollout": COUNT,
    "num_epoch": COUNT,
    "rollout_max_response_len": COUNT,
    "rollout_max_prompt_len": COUNT,
    "rollout_max_context_len": COUNT,
    "rollout_temperature": POSITIVE,
    "rollout_top_p": TOP_P,
    "rollout_top_k": TOP_K,
    "over_sampling_batch_size": COUNT,
    "max_sampling_rounds": COUNT,
    "generate_retries": NOT_NEGATIVE,
    "max_staleness": COUNT,
    "update_weights_interval": COUNT,
    "rm_timeout": POSITIVE,
    "rm_workers": COUNT,
    "rm_cache_size": NOT_NEGATIVE,
    "max_unscored_fraction": SHARE,
    "actor_num_nodes": COUNT,
    "actor_num_gpus_per_node": COUNT,
    "tensor_model_parallel_size": COUNT,
    "pipeline_model_parallel_size": COUNT,
    "virtual_pipeline_model_parallel_size": COUNT,
    "context_parallel_size": COUNT,
    "expert_model_parallel_size": COUNT,
    "expert_tensor_parallel_size": COUNT,
    "recompute_num_layers": COUNT,
    "rollout_num_gpus": COUNT,
    "rollout_num_gpus_per_engine": COUNT,
    "rollout_health_check_interval": POSITIVE,
    "rollout_health_check_timeout": POSITIVE,
    "eval_interval": COUNT,
    "n_samples_per_eval_prompt": COUNT,
    "eval_max_response_len": COUNT,
    "eval_temperature": NOT_NEGATIVE,
    "eval_top_p": TOP_P,
    "eval_top_k": TOP_K,
    "eval_min_new_tokens": NOT_NEGATIVE,
    "eval_max_prompt_len": COUNT,
    "eval_max_context_len": COUNT,
    "eval_pass_threshold": FINITE,
    "eps_clip": NOT_NEGATIVE,
    "eps_clip_high": NOT_NEGATIVE,
    "kl_coef": NOT_NEGATIVE,
    "gamma": SHARE,
    "eps_clip_c": ABOVE_ONE,
    "opsm_delta": NOT_NEGATIVE,
    "tis_clip": POSITIVE,
    "tis_clip_low": NOT_NEGATIVE,
    "tis_reject_low": NOT_NEGATIVE,
    "tis_reject_high": POSITIVE,
    "tis_veto": NOT_NEGATIVE,
    "lambd": SHARE,
    "value_clip": POSITIVE,
    "num_critic_only_steps": NOT_NEGATIVE,
    "kl_loss_coef": NOT_NEGATIVE,
    "opd_kl_coef": POSITIVE,
    "opd_teacher_ckpt_step": NOT_NEGATIVE,
    "entropy_coef": FINITE,
    "lr": NOT_NEGATIVE,
    "min_lr": NOT_NEGATIVE,
    "lr_warmup_iters": NOT_NEGATIVE,
    "critic_lr": NOT_NEGATIVE,
    "critic_lr_warmup_iters": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": DECAY,
    "adam_beta2": DECAY,
    "adam_eps": POSITIVE,
    "sgd_momentum": DECAY,
    "clip_grad": NOT_NEGATIVE,
    "micro_batch_size": COUNT,
    "max_tokens_per_gpu": COUNT,
    "log_probs_max_tokens_per_gpu": COUNT,
    "sglang_server_concurrency": COUNT,
    "sglang_max_running_requests": COUNT,
    "num_layers": COUNT,
    "hidden_size": COUNT,
    "ffn_hidden_size": COUNT,
    "num_attention_heads": COUNT,
    "num_query_groups": COUNT,
    "kv_channels": COUNT,
    "rotary_base": POSITIVE,
    "norm_epsilon": POSITIVE,
    "vocab_size": COUNT,
    "num_threads": COUNT,
    "seed": SEED,
}


def check_ranges(config: Config) -> list[str]:
    """One sentence for every number out of its range; an unset one has none."""
    values = flatten(config)
    return [
        f"--{name.replace('_', '-')} must be {allowed.words}; got {value}"
        for name, allowed in RANGES.items()
        if (value := values[name]) is not None and not (math.isfinite(value) and allowed.holds(value))
    ]
