"""What kinds of plugin there are, which hook offers each, and how a plain function of that kind is called."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

Kind = Literal["reward", "dynamic_filter", "buffer_filter", "generator", "advantage", "tracker"]
"""What an installed package may offer by a name."""

RunHook = Literal[
    "rollout_function",
    "eval_function",
    "sample_hook",
    "sample_filter",
    "all_samples_process",
    "reward_post_process",
    "train_data_converter",
    "data_postprocess",
    "data_source",
    "custom_advantage",
    "custom_tis",
    "custom_loss",
    "pg_loss_reducer",
    "rollout_log",
    "eval_log",
]
"""Functions of a run, named by path."""

AnyKind = Kind | RunHook

Waits = Literal["never", "may", "must"]
"""Whether a function of a kind is `async def`."""


@dataclass(frozen=True)
class KindSpec:
    """One kind of plugin."""

    noun: str
    """How messages call it."""
    hook: str
    """The hook that offers it by name; empty where it is named by path alone."""
    flag: str
    """The flag that names it; empty where none does."""
    signature: str
    """The parameters of a plain function of this kind, as an author would write them."""
    arity: int
    """How many arguments such a function is called with."""
    slime_signature: str = ""
    """slime's parameters, where a function of that shape is accepted as it is."""
    waits: Waits = "never"
    slime_waits: Waits = "never"
    """The same of a function of slime's shape."""

    @property
    def setting(self) -> str:
        """The field of the configuration that the flag sets."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def slime_names(self) -> tuple[str, ...]:
        """slime's positional parameters."""
        names = self.slime_signature.strip("()").split(", ")
        return tuple(name for name in names if "=" not in name and not name.startswith("*"))

    @property
    def slime_keywords(self) -> tuple[str, ...]:
        """What slime gives by keyword to whoever takes it."""
        names = self.slime_signature.strip("()").split(", ")
        return tuple(name.partition("=")[0] for name in names if "=" in name)


KINDS: Final = MappingProxyType(
    {
        "reward": KindSpec(
            "reward",
            "slimrl_offer_rewards",
            "--rm-type or --custom-rm-path",
            "(sample)",
            1,
            "(args, sample, **kwargs)",
            waits="may",
            slime_waits="may",
        ),
        "dynamic_filter": KindSpec(
            "dynamic filter",
            "slimrl_offer_dynamic_filters",
            "--dynamic-sampling-filter-path",
            "(group)",
            1,
            "(args, samples, **kwargs)",
        ),
        "buffer_filter": KindSpec(
            "buffer filter",
            "slimrl_offer_buffer_filters",
            "--buffer-filter-path",
            "(buffer, count)",
            2,
            "(args, rollout_id, buffer, num_samples)",
        ),
        "generator": KindSpec(
            "generator",
            "slimrl_offer_generators",
            "--custom-generate-function-path",
            "(sample, sampling, engine)",
            3,
            "(args, sample, sampling_params, evaluation=False)",
            waits="must",
            slime_waits="must",
        ),
        "advantage": KindSpec(
            "advantage estimator",
            "slimrl_offer_advantages",
            "--advantage-estimator",
            "(rewards, group_ids) or (rollout)",
            2,
        ),
        "tracker": KindSpec(
            "tracker", "slimrl_offer_trackers", "--tracker", "an object with log(step, metrics) and close()", 0
        ),
    }
)

RUN_HOOKS: Final = MappingProxyType(
    {
        "rollout_function": KindSpec(
            "rollout function",
            "",
            "--rollout-function-path",
            "(step, rollout)",
            2,
            "(args, rollout_id, data_source, evaluation=False)",
            waits="must",
        ),
        "eval_function": KindSpec(
            "evaluation function",
            "",
            "--eval-function-path",
            "(step, evaluation)",
            2,
            "(args, rollout_id, data_source, evaluation=True)",
            waits="must",
        ),
        "sample_hook": KindSpec(
            "sample hook",
            "",
            "--rollout-sample-hook-path",
            "(sample)",
            1,
            "(args, sample, rollout_id=None, evaluation=False)",
            waits="may",
            slime_waits="may",
        ),
        "sample_filter": KindSpec("sample filter", "", "--rollout-sample-filter-path", "(groups)", 1, "(args, groups)"),
        "all_samples_process": KindSpec(
            "all-samples process",
            "",
            "--rollout-all-samples-process-path",
            "(groups, source)",
            2,
            "(args, all_groups, data_source)",
        ),
        "reward_post_process": KindSpec(
            "reward post-process", "", "--custom-reward-post-process-path", "(samples)", 1, "(args, samples)"
        ),
        "train_data_converter": KindSpec(
            "train data converter",
            "",
            "--custom-convert-samples-to-train-data-path",
            "(batch, groups)",
            2,
            "(args, samples)",
        ),
        "data_postprocess": KindSpec(
            "data postprocess",
            "",
            "--rollout-data-postprocess-path",
            "(batch, advantages)",
            2,
            "(args, rollout_id, rollout_data)",
        ),
        "custom_advantage": KindSpec(
            "advantage function", "", "--custom-advantage-function-path", "(rollout)", 1, "(args, rollout_data)"
        ),
        "custom_tis": KindSpec(
            "importance weight function",
            "",
            "--custom-tis-function-path",
            "(log_probs, rollout_log_probs, lengths)",
            3,
            "(args, pg_loss=, train_log_probs=, rollout_log_probs=, loss_masks=, total_lengths=, response_lengths=)",
        ),
        "custom_loss": KindSpec("loss function", "", "--custom-loss-function-path", "(tokens)", 1),
        "pg_loss_reducer": KindSpec(
            "policy loss reducer",
            "",
            "--custom-pg-loss-reducer-function-path",
            "(total_lengths, response_lengths, loss_masks, calculate_per_token_loss), which returns a function",
            4,
        ),
        "data_source": KindSpec(
            "data source",
            "",
            "--data-source-path",
            "(options), which returns an object with take, state and restore",
            1,
            "class(args) with get_samples, save and load",
        ),
        "rollout_log": KindSpec(
            "rollout log function",
            "",
            "--custom-rollout-log-function-path",
            "(step, groups, metrics)",
            3,
            "(rollout_id, args, samples, rollout_extra_metrics, rollout_time)",
        ),
        "eval_log": KindSpec(
            "evaluation log function",
            "",
            "--custom-eval-rollout-log-function-path",
            "(step, results, metrics)",
            3,
            "(rollout_id, args, data, extra_metrics)",
        ),
    }
)

KIND_NAMES: Final[tuple[Kind, ...]] = get_args(Kind)
RUN_HOOK_NAMES: Final[tuple[RunHook, ...]] = get_args(RunHook)
SPECS: Final = MappingProxyType({**KINDS, **RUN_HOOKS})
"""Every kind, offered by name or not."""
