"""Buffer filters: which of the groups that were kept over go into the next rollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slimrl import BufferFilter, Factory, Group, PluginOptions, hookimpl


def pop_first(buffer: list[Group], count: int) -> list[Group]:
    """The groups that have been in the buffer longest first."""
    taken = buffer[:count]
    del buffer[:count]
    return taken


def newest_first(buffer: list[Group], count: int) -> list[Group]:
    """The groups that came last first: nearest to the current policy; an old one may wait for long."""
    taken = buffer[max(len(buffer) - count, 0) :][::-1]
    del buffer[len(buffer) - len(taken) :]
    return taken


def by_staleness(buffer: list[Group], count: int) -> list[Group]:
    """The groups with the oldest tokens first, then those without tokens; equals in the order they came."""
    places = sorted(range(len(buffer)), key=lambda place: _oldest_version(buffer[place]))[:count]
    taken = [buffer[place] for place in places]
    chosen = set(places)
    buffer[:] = [group for place, group in enumerate(buffer) if place not in chosen]
    return taken


def _oldest_version(group: Group) -> float:
    return min((min(sample.weight_versions) for sample in group if sample.weight_versions), default=float("inf"))


def _always(take: BufferFilter) -> Callable[[PluginOptions], BufferFilter]:
    return lambda options: take


@hookimpl
def slimrl_offer_buffer_filters() -> Mapping[str, Factory[BufferFilter]]:
    """Offers the filters of this file by name; they have no options."""
    return {take.__name__: _always(take) for take in (pop_first, newest_first, by_staleness)}
