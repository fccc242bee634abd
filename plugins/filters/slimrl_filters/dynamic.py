"""Dynamic filters: drop the groups that little is learnt from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slimrl import DynamicFilter, Factory, Group, PluginOptions, Status, UsageError, Verdict, hookimpl

MIN_STD = 1e-6
"""slime's threshold, on the unbiased standard deviation."""


@dataclass(frozen=True)
class DynamicFilterOptions:
    """What `accuracy_band`, `truncation` and `response_length` compare with."""

    accuracy_band_low: float = 0.1
    """accuracy_band drops a group whose mean reward is below this."""
    accuracy_band_high: float = 0.9
    """accuracy_band drops a group whose mean reward is above this."""
    truncation_max_share: float = 0.5
    """truncation drops a group of which a larger share was cut off by the response's limit."""
    response_length_low: float = 1.0
    """response_length drops a group whose mean response has fewer tokens."""
    response_length_high: float = float("inf")
    """response_length drops a group whose mean response has more tokens."""


def check_reward_nonzero_std(group: Group) -> Verdict:
    """Keep a group whose scored samples differ in reward; a group with fewer than two scores cannot differ."""
    values = _values(group)
    if len(values) < 2:
        return Verdict(keep=False, reason="too_few_scored")
    if statistics.stdev(values) <= MIN_STD:
        return Verdict(keep=False, reason="zero_std")
    return Verdict(keep=True)


def check_reward_nonzero_std_with_fallback(group: Group) -> Verdict:
    """The same, but a group that is dropped is taken after all where a batch cannot be filled otherwise."""
    verdict = check_reward_nonzero_std(group)
    return verdict if verdict.keep else replace(verdict, keep_when_insufficient=True)


def make_accuracy_band(options: PluginOptions) -> DynamicFilter:
    """Keep a group whose mean reward, over the scored samples, is in a band."""
    low, high = options[DynamicFilterOptions].accuracy_band_low, options[DynamicFilterOptions].accuracy_band_high
    _check_band("accuracy-band", low, high)

    def accuracy_band(group: Group) -> Verdict:
        values = _values(group)
        if not values:
            return Verdict(keep=False, reason="too_few_scored")
        return _in_band(statistics.fmean(values), low, high, below="accuracy_low", above="accuracy_high")

    return accuracy_band


def make_truncation(options: PluginOptions) -> DynamicFilter:
    """Keep a group of which few samples were cut off by the limit of the response's length."""
    max_share = options[DynamicFilterOptions].truncation_max_share
    if not 0 <= max_share <= 1:
        raise UsageError(f"--truncation-max-share must be from 0 to 1; got {max_share:g}")

    def truncation(group: Group) -> Verdict:
        truncated = sum(sample.status is Status.TRUNCATED for sample in group)
        return Verdict(keep=False, reason="truncated") if truncated > max_share * len(group) else Verdict(keep=True)

    return truncation


def make_response_length(options: PluginOptions) -> DynamicFilter:
    """Keep a group whose mean number of response tokens, over samples that have any, is in a band."""
    low, high = options[DynamicFilterOptions].response_length_low, options[DynamicFilterOptions].response_length_high
    _check_band("response-length", low, high)

    def response_length(group: Group) -> Verdict:
        lengths = [len(sample.tokens) for sample in group if sample.tokens]
        mean = statistics.fmean(lengths) if lengths else 0.0
        return _in_band(mean, low, high, below="too_short", above="too_long")

    return response_length


def _values(group: Group) -> list[float]:
    return [sample.value for sample in group if sample.value is not None]


def _in_band(value: float, low: float, high: float, *, below: str, above: str) -> Verdict:
    if value < low:
        return Verdict(keep=False, reason=below)
    return Verdict(keep=False, reason=above) if value > high else Verdict(keep=True)


def _check_band(flag: str, low: float, high: float) -> None:
    if not low <= high:
        raise UsageError(f"--{flag}-low {low:g} must not be above --{flag}-high {high:g}")


def make(options: PluginOptions) -> DynamicFilter:
    """The filter of groups that do not vary; it has no options."""
    return check_reward_nonzero_std


def make_with_fallback(options: PluginOptions) -> DynamicFilter:
    """Its variant with a fallback; it has no options."""
    return check_reward_nonzero_std_with_fallback


@hookimpl
def slimrl_offer_dynamic_filters() -> Mapping[str, Factory[DynamicFilter]]:
    """Offers the filters of this file by name."""
    return {
        "check_reward_nonzero_std": make,
        "check_reward_nonzero_std_with_fallback": make_with_fallback,
        "accuracy_band": make_accuracy_band,
        "truncation": make_truncation,
        "response_length": make_response_length,
    }


@hookimpl
def slimrl_options() -> Sequence[type]:
    """The flags of the filters with limits."""
    return [DynamicFilterOptions]
