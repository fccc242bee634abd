"""Plugins in a test: resolved as a run resolves them, rewards called as a worker calls them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

from slimrl.config import Config
from slimrl.errors import PluginError, RewardError
from slimrl.registry import KINDS, Kind, Options, load
from slimrl.registry.adapt import adapt
from slimrl.registry.discover import last_line
from slimrl.scoring.outcome import failed, to_score
from slimrl.testing.samples import make_sample
from slimrl.traits import traits_of
from slimrl.types import Sample, Score

Plugin = str | Callable[..., Any]
"""A reference as a flag takes it, or the function itself."""


def resolve(kind: Kind, plugin: Plugin, *options: object) -> Any:  # Any: what it is depends on the kind
    """The plugin a reference names (or a function), made with default options and the given ones; PluginError."""
    if kind not in KINDS:
        raise PluginError(f"there is no kind {kind!r} of plugin; there are {', '.join(KINDS)}")
    registry = load(warn=False)
    known = default_options(*options).with_defaults(registry.catalogue.option_types)
    if isinstance(plugin, str):
        return registry.resolve(kind, plugin).make(known)
    name = getattr(plugin, "__qualname__", repr(plugin))
    return adapt(kind, plugin, name).bind(known)


def score(
    plugin: Plugin,
    sample: Sample | str,
    label: Any = None,  # Any: a label is any JSON value
    metadata: Mapping[str, Any] | None = None,
    *,
    options: tuple[object, ...] = (),
    reward_key: str | None = None,
) -> Score:
    """The outcome of one sample (or response), in this process: what the reward raises is an error outcome.

    There is no deadline here; `conformance` and `slimrl check` have one. Of a mapping `reward_key` is the value,
    else what the reward's traits say.
    """
    reward = resolve("reward", plugin, *options)
    if isinstance(sample, str):
        sample = make_sample(sample, label, metadata)
    try:
        returned = reward(sample)
        if inspect.isawaitable(returned):
            returned = _wait(_as_coroutine(returned))
    except RewardError as error:
        return failed(str(error))
    except Exception as error:  # a plugin's edge
        return failed(f"the reward raised {last_line(error)}")
    key = reward_key or traits_of(reward).key
    return to_score(returned, key if isinstance(returned, Mapping) else None)


def default_options(*changed: object) -> Options:
    """The configuration's defaults, with some option dataclasses instead of their defaults."""
    config = Config()
    return Options([*(getattr(config, field.name) for field in fields(config)), *changed])


async def _as_coroutine(awaitable: Any) -> Any:  # Any: whatever a reward returns
    return await awaitable


def _wait(work: Coroutine[Any, Any, Any]) -> Any:  # Any: as above
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # called from an async test: a loop does not run inside another
        return thread.submit(asyncio.run, work).result()
