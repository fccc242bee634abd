"""A reward and how a scorer calls it."""

from __future__ import annotations

from dataclasses import dataclass

from slimrl.protocols import Reward
from slimrl.registry import Resolved


@dataclass
class Served:
    """What the scorer knows of a reward once it was made in a worker."""

    number: int
    """What calls name it with."""
    resolved: Resolved
    is_async: bool
    is_group: bool
    is_pure: bool
    timeout_s: float
    key: str | None
    """The component that the reward itself says is its value."""
    inline: Reward | None = None
    """The reward itself, as long as it may run on the event loop."""

    def keys(self, asked: str | None, *, is_alone: bool) -> tuple[str, ...]:
        """Which components of a mapping may be the value, the first that is there.

        A reward that is alone has the key that was asked for or breaks its contract; of several, some have their own.
        """
        if asked is None or (self.key and self.key != asked and not is_alone):
            return tuple(key for key in (asked, self.key) if key)
        return (asked,)
