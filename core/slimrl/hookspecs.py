"""The hooks a plugin module may implement. Hooks run at start-up and offer things by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from slimrl.protocols import (
    Advantage,
    BufferFilter,
    DynamicFilter,
    Factory,
    Generate,
    Reward,
    TokenAdvantage,
    Tracker,
)

hookspec = pluggy.HookspecMarker("slimrl")
hookimpl = pluggy.HookimplMarker("slimrl")


@hookspec
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:  # type: ignore[empty-body]  # a hook spec has no body
    """Rewards by the name that `--rm-type` takes."""


@hookspec
def slimrl_offer_dynamic_filters() -> Mapping[str, Factory[DynamicFilter]]:  # type: ignore[empty-body]
    """Group filters by the name that `--dynamic-sampling-filter-path` takes."""


@hookspec
def slimrl_offer_buffer_filters() -> Mapping[str, Factory[BufferFilter]]:  # type: ignore[empty-body]
    """Ways to take groups out of the buffer, by the name that `--buffer-filter-path` takes."""


@hookspec
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:  # type: ignore[empty-body]
    """Generators by the name that `--custom-generate-function-path` takes."""


@hookspec
def slimrl_offer_advantages() -> Mapping[str, Factory[Advantage | TokenAdvantage]]:  # type: ignore[empty-body]
    """Advantage estimators by the name that `--advantage-estimator` takes."""


@hookspec
def slimrl_offer_trackers() -> Mapping[str, Factory[Tracker]]:  # type: ignore[empty-body]
    """Metric trackers by name."""


@hookspec
def slimrl_options() -> Sequence[type]:  # type: ignore[empty-body]
    """Frozen dataclasses of a plugin's own flags; every field needs a default."""
