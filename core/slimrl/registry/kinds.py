"""What kinds of plugin there are, which hook offers each, and how a plain function of that kind is called."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

Kind = Literal["reward", "dynamic_filter", "buffer_filter", "generator", "advantage", "tracker"]


@dataclass(frozen=True)
class KindSpec:
    """One kind of plugin."""

    noun: str
    """How messages call it."""
    hook: str
    """The hook that offers it by name."""
    flag: str
    """The flag that names it; empty where none does."""
    signature: str
    """The parameters of a plain function of this kind, as an author would write them."""
    arity: int
    """How many arguments such a function is called with."""
    slime_signature: str = ""
    """slime's parameters, where a function of that shape is accepted as it is."""


KINDS: Final = MappingProxyType(
    {
        "reward": KindSpec(
            "reward", "slimrl_offer_rewards", "--rm-type or --custom-rm-path", "(sample)", 1, "(args, sample, **kwargs)"
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
            "buffer filter", "slimrl_offer_buffer_filters", "--buffer-filter-path", "(buffer, count)", 2
        ),
        "generator": KindSpec(
            "generator",
            "slimrl_offer_generators",
            "--custom-generate-function-path",
            "(sample, sampling, engine)",
            3,
        ),
        "advantage": KindSpec(
            "advantage estimator", "slimrl_offer_advantages", "--advantage-estimator", "(rewards, group_ids)", 2
        ),
        "tracker": KindSpec("tracker", "slimrl_offer_trackers", "", "an object with log(step, metrics) and close()", 0),
    }
)

KIND_NAMES: Final[tuple[Kind, ...]] = get_args(Kind)
