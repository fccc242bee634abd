"""What differs between the SGLang versions that are supported, 0.5.15 to 0.5.23, in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slimrl.errors import EngineError

OLDEST = (0, 5, 15)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to an engine of one version."""

    brackets_updates: bool = True
    """Tensor updates stand between /begin_weight_update and /end_weight_update (mandatory from 0.5.21 on)."""
    loads_path: str = "/v1/loads?include=core"


def dialect_of(version: str) -> Dialect:
    """The dialect of the `version` in /server_info; a development build speaks like the newest version.

    Raises EngineError for a version older than 0.5.15.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return Dialect()
    number = tuple(map(int, found.groups()))
    if number < OLDEST:
        raise EngineError(f"the engine is SGLang {version}; slimrl needs {'.'.join(map(str, OLDEST))} or newer")
    if number < (0, 5, 21):
        return Dialect(brackets_updates=False, loads_path="/get_load")
    return Dialect()
