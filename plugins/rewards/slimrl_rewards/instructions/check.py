"""A check: whether a response follows one instruction; and how it is made of the instruction's arguments."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[str], bool]
"""Whether a response, which is never blank, follows the instruction."""
MakeCheck = Callable[..., Check]
"""Called with the arguments as keywords; raises TypeError for one too many or one too few."""


def without_arguments(check: Check) -> MakeCheck:
    """An instruction that has no arguments, and refuses any."""

    def make() -> Check:
        return check

    return make


def whatever_the_arguments(check: Check) -> MakeCheck:
    """An instruction that has no arguments, and overlooks those that it is given, as IFBench's `custom:*` do."""

    def make(**_ignored: object) -> Check:
        return check

    return make
