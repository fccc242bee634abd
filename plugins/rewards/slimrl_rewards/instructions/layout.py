"""Instructions about lines: bullets, sections, line breaks and indents."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.text import without_punctuation

# Blank lines before a bullet are part of it, as in IFEval's patterns; `*+` keeps the search from trying each of them.
_STAR_BULLET: Final = re.compile(r"\s*+\*[^*].*")
_DASH_BULLET: Final = re.compile(r"\s*+-.*")
_BLANK: Final = re.compile(r"\s*")
_HIGHLIGHT: Final = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT: Final = re.compile(r"\*\*([^\n*]*)\*\*")


def number_bullet_lists(*, num_bullets: int) -> Check:
    """Exactly so many lines begin with `*` or `-`."""
    return lambda text: _num_items(text, _STAR_BULLET) + _num_items(text, _DASH_BULLET) == num_bullets


def _num_items(text: str, item: re.Pattern[str]) -> int:
    """How often the pattern matches at the start of a line, each match beginning after the one before it."""
    count = start = 0
    while True:
        found = item.match(text, start)
        if found:
            count += 1
            start = found.end()
            if text[start - 1] == "\n":  # a bullet that is a star alone takes the line break: the next line is here
                continue
        else:  # the lines from here to the next mark are blank, and have found the same mark
            start = _blank_end(text, start)
        start = text.find("\n", start) + 1
        if start == 0:
            return count


def _blank_end(text: str, start: int) -> int:
    blank = _BLANK.match(text, start)
    assert blank is not None  # it matches the empty text
    return blank.end()


def number_highlighted_sections(*, num_highlights: int) -> Check:
    """At least so many parts stand in stars, `*so*`, or in two, `**so**`, with more than space in them."""

    def check(text: str) -> bool:
        found = _HIGHLIGHT.findall(text) + _DOUBLE_HIGHLIGHT.findall(text)
        return sum(bool(part.strip()) for part in found) >= num_highlights

    return check


def multiple_sections(*, section_spliter: str, num_sections: int) -> Check:
    """At least so many times the word that begins a section, and a number; it is a regular expression, as in IFEval."""
    try:
        splitter = re.compile(rf"\s?{section_spliter.strip()}\s?\d+\s?")
    except re.error:
        splitter = re.compile(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?")
    return lambda text: sum(1 for _ in splitter.finditer(text)) >= num_sections


def two_responses(text: str) -> bool:
    """Two different parts, with six stars between them."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def a_word_a_line(text: str) -> bool:
    """As many lines as words, empty lines and punctuation aside."""
    plain = without_punctuation(text).strip()
    return len([line for line in plain.split("\n") if line]) == len(plain.split())


def stairs(text: str) -> bool:
    """Each line is indented deeper than the one before it."""
    indents = [len(line) - len(line.lstrip(" ")) for line in _with_fewer_blanks(text.split("\n"))]
    return all(earlier < later for earlier, later in pairwise(indents))


def _with_fewer_blanks(lines: Sequence[str]) -> list[str]:
    """The lines as IFBench's loop leaves them, which removes from the list that it goes through.

    After each blank line it skips one, and what it removes is the first line that is the same. So of two blank lines
    in a row one remains, and its indent counts.
    """
    places: dict[str, deque[int]] = defaultdict(deque)
    for place, line in enumerate(lines):
        places[line].append(place)
    removed = set()
    place = 0
    while place < len(lines):
        if lines[place].strip():
            place += 1
        else:
            removed.add(places[lines[place]].popleft())
            place += 2
    return [line for place, line in enumerate(lines) if place not in removed]


def dashes_under_stars(text: str) -> bool:
    """After each star, and before the next, there is a dash."""
    return all("-" in bullet for bullet in text.split("*")[1:])


def separators(*, sep: str) -> Check:
    """The separator occurs at least twice."""
    return lambda text: text.count(sep) >= 2


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "combination:two_responses": without_arguments(two_responses),
    "format:newline": without_arguments(a_word_a_line),
    "format:line_indent": without_arguments(stairs),
    "format:sub-bullets": without_arguments(dashes_under_stars),
    "format:list": separators,
}
