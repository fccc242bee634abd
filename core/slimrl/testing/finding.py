"""What a conformance check found: a word, and where it is not 'ok' what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from slimrl.registry.discover import last_line

T = TypeVar("T")

Outcome = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of one plugin."""

    check: str
    """The check's name."""
    sentence: str
    """What holds for a plugin that passes."""
    outcome: Outcome
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.outcome}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Word:
    """What a check says: its outcome and the detail."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Check(Generic[T]):
    """One thing that must hold for every plugin of a kind."""

    name: str
    sentence: str
    look: Callable[[T], Word]

    def find(self, subject: T) -> Finding:
        """Look, and say what was found; whatever the plugin raises is a failure."""
        try:
            word = self.look(subject)
        except Exception as error:  # a plugin's edge
            word = failure(f"it raised {last_line(error)}")
        return Finding(self.name, self.sentence, word.outcome, word.detail)


def ok(detail: str = "") -> Word:
    """It holds."""
    return Word("ok", detail)


def warning(detail: str) -> Word:
    """It may be meant; the author should know."""
    return Word("warning", detail)


def failure(detail: str) -> Word:
    """A run would suffer from it."""
    return Word("failure", detail)
