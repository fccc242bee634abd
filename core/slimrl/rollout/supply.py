"""Where a function of the user's gets groups from, and gives them back to."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

from slimrl.data.buffer import Buffer
from slimrl.protocols import DataSource
from slimrl.types import Group


class RunSupply:
    """Implements Supply: what waits in the buffer, then new prompts.

    `taken` are the groups that were handed out and not put back.
    """

    def __init__(self, source: DataSource, buffer: Buffer) -> None:
        self._source = source
        self._buffer = buffer
        self.taken: dict[int, Group] = {}

    def take(self, count: int) -> list[Group]:
        """The next `count` groups; some may be begun or finished already."""
        groups = self._buffer.take(count)
        groups += self._source.take(count - len(groups))
        self.taken |= {group.group_id: group for group in groups}
        return groups

    def put_back(self, group: Group) -> None:
        """Keep a group for a later batch; a checkpoint has it too."""
        self.taken.pop(group.group_id, None)
        self._buffer.add(group)

    def __len__(self) -> int:
        """Prompts in an epoch, where the source tells."""
        return len(cast(Sized, self._source))

    @property
    def own(self) -> Any:  # Any: a class of the user's
        """The object behind --data-source-path, where it is one of slime's class; else None."""
        return getattr(self._source, "own", None)
