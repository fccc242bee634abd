"""What must hold for every buffer filter."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Final

from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.testing.samples import make_group
from slimrl.types import Group

Filter = Callable[[list[Group], int], list[Group]]

CASES: Final = ((0, 0), (0, 3), (1, 1), (5, 0), (5, 1), (5, 3), (5, 5), (5, 9), (200, 64))
"""Groups in the buffer, and how many are asked for."""


def _buffer(size: int) -> list[Group]:
    return [make_group((place % 3, place % 2, None), "7", group_id=place) for place in range(size)]


def returns_groups(take: Filter) -> Word:
    """What comes out are groups of the buffer, each once."""
    for size, count in CASES:
        buffer = _buffer(size)
        known = {id(group) for group in buffer}
        taken = take(buffer, count)
        case = f"{size} groups, {count} asked for"
        if not isinstance(taken, list) or not all(isinstance(group, Group) for group in taken):
            return failure(f"{case}: it returned {type(taken).__name__}, not a list of groups")
        if any(id(group) not in known for group in taken):
            return failure(f"{case}: it returned a group that was not in the buffer")
        if len({id(group) for group in taken}) != len(taken):
            return failure(f"{case}: it returned a group twice")
    return ok()


def never_too_many(take: Filter) -> Word:
    """The rollout has no place for more."""
    for size, count in CASES:
        taken = take(_buffer(size), count)
        if len(taken) > count:
            return failure(f"{size} groups, {count} asked for: it returned {len(taken)}")
    return ok()


def removes_what_it_returns(take: Filter) -> Word:
    """A group that stays in the buffer would be trained on twice; one that vanishes, never."""
    dropped = 0
    for size, count in CASES:
        buffer = _buffer(size)
        before = list(buffer)
        taken = {id(group) for group in take(buffer, count)}
        left = {id(group) for group in buffer}
        if taken & left:
            return failure(f"{size} groups, {count} asked for: {len(taken & left)} it returned are still in the buffer")
        dropped += len(before) - len(taken) - len(left)
    return warning(f"it drops groups that it does not return ({dropped} here)") if dropped else ok()


def leaves_groups_alone(take: Filter) -> Word:
    """They have been generated and scored."""
    buffer = _buffer(5)
    before = {group.group_id: deepcopy(group) for group in buffer}
    changed = [group.group_id for group in [*take(buffer, 3), *buffer] if group != before[group.group_id]]
    return failure(f"it changed {len(changed)} groups") if changed else ok()


CHECKS: Final[tuple[Check[Filter], ...]] = (
    Check("groups", "it returns groups of the buffer, each once", returns_groups),
    Check("count", "it never returns more than it was asked for", never_too_many),
    Check("removes", "it removes from the buffer what it returns, and nothing else", removes_what_it_returns),
    Check("unchanged", "it does not change a group", leaves_groups_alone),
)
