"""What a word of --prompt-data says: a file, which of its rows, and how often they come."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slimrl.errors import ConfigError

SLICE = re.compile(r"(?P<rest>.+)@\[(?P<start>[+-]?\d*):(?P<stop>[+-]?\d*)\]", re.DOTALL)
WEIGHT = re.compile(r"(?P<rest>.+)=(?P<weight>[^=/\\]*)", re.DOTALL)


@dataclass(frozen=True)
class PromptFileSpec:
    """A prompt file, a slice of its rows and its weight."""

    path: Path
    start: int | None = None
    stop: int | None = None
    weight: float = 1.0
    """How often each of its prompts comes in an epoch, on average."""

    @property
    def name(self) -> str:
        """What samples of it are told apart by."""
        return self.path.stem

    def rows(self, count: int) -> range:
        """The rows that the slice selects of `count`, by Python's rules."""
        return range(count)[self.start : self.stop]

    def resolved(self) -> PromptFileSpec:
        """The same with an absolute path: it crosses to another process."""
        return replace(self, path=self.path.resolve())


def parse_prompt_file(text: str, flag: str = "--prompt-data", *, weighted: bool = True) -> PromptFileSpec:
    """`PATH`, `PATH@[a:b]`, `PATH=WEIGHT` or `PATH@[a:b]=WEIGHT`; a file of exactly that name is the file.

    Raises ConfigError for a slice or a weight that is none.
    """
    rest, weight, start, stop = text, 1.0, None, None
    if not _is_there(rest) and weighted and (match := WEIGHT.fullmatch(rest)):
        rest, weight = match["rest"], _weight(match["weight"], text, flag)
    if not _is_there(rest) and (match := SLICE.fullmatch(rest)):
        rest, start, stop = match["rest"], _bound(match["start"]), _bound(match["stop"])
    elif not _is_there(rest) and "@[" in rest:
        raise ConfigError(f"{flag} {text}: a slice is @[a:b] with whole numbers, either may be left out, e.g. @[0:100]")
    return PromptFileSpec(Path(rest), start, stop, weight)


def parse_prompt_files(words: Sequence[str], problems: list[str]) -> list[PromptFileSpec]:
    """Every word of --prompt-data; what is wrong with one is added to `problems`."""
    found: list[PromptFileSpec] = []
    for word in words:
        try:
            found.append(parse_prompt_file(word))
        except ConfigError as error:
            problems += error.problems
    return found


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


def _weight(said: str, text: str, flag: str) -> float:
    try:
        weight = float(said)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ConfigError(f"{flag} {text}: the weight must be a number above 0; got {said!r}")
    return weight


def _bound(said: str) -> int | None:
    return int(said) if said.strip("+-") else None
