"""A command line's words, as flags with their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Given:
    """One flag as it was typed."""

    typed: str
    """The flag without dashes, hyphenated."""
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        """The values as typed, for messages."""
        return repr(" ".join(self.values)) if self.values else "nothing"


def given_flags(argv: Sequence[str], problems: list[str], short: Mapping[str, str] | None = None) -> Iterator[Given]:
    """Each flag with the words up to the next one; one that is given again comes again.

    Words before the first flag are added to `problems`. `short` are other spellings of flags, each with the flag.
    """
    words = list(argv)
    while words and not words[0].startswith("--"):
        problems.append(f"unexpected argument {words.pop(0)!r}; a flag begins with --")
    while words:
        name, equals, value = words.pop(0)[2:].partition("=")
        values = [value] if equals else []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        typed = name.replace("_", "-")
        yield Given((short or {}).get(typed, typed), tuple(values))
