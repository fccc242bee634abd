"""Dynamic filters: drop the groups that an estimator of group-relative advantages learns nothing from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from slimrl import DynamicFilter, Factory, Group, PluginOptions, Verdict, hookimpl

MIN_STD = 1e-6
"""slime's threshold, on the unbiased standard deviation."""


def check_reward_nonzero_std(group: Group) -> Verdict:
    """Keep a group whose scored samples differ in reward; a group with fewer than two scores cannot differ."""
    values = [sample.value for sample in group if sample.value is not None]
    if len(values) < 2:
        return Verdict(keep=False, reason="too_few_scored")
    if statistics.stdev(values) <= MIN_STD:
        return Verdict(keep=False, reason="zero_std")
    return Verdict(keep=True)


def make(options: PluginOptions) -> DynamicFilter:
    """The filter; it has no options."""
    return check_reward_nonzero_std


@hookimpl
def slimrl_offer_dynamic_filters() -> Mapping[str, Factory[DynamicFilter]]:
    """Offers `check_reward_nonzero_std`."""
    return {"check_reward_nonzero_std": make}
