"""Buffer filters: which of the groups that were kept over go into the next rollout."""

from __future__ import annotations

from collections.abc import Mapping

from slimrl import BufferFilter, Factory, Group, PluginOptions, hookimpl


def pop_first(buffer: list[Group], count: int) -> list[Group]:
    """The oldest groups first: what waited longest is furthest from the current policy."""
    taken = buffer[:count]
    del buffer[:count]
    return taken


def make(options: PluginOptions) -> BufferFilter:
    """The filter; it has no options."""
    return pop_first


@hookimpl
def slimrl_offer_buffer_filters() -> Mapping[str, Factory[BufferFilter]]:
    """Offers `pop_first`."""
    return {"pop_first": make}
