"""Instructions that are tasks of their own: lists and tables that IFBench asks for, and repeating the prompt."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from slimrl_rewards.instructions.check import Check, MakeCheck, whatever_the_arguments, without_arguments
from slimrl_rewards.instructions.text import EDGES, in_ascii, plain_words

MULTIPLES: Final = [str(number) for number in range(14, 51, 7)]
CAPITALS: Final = re.findall(
    r"\w+",
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw "
    "London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb",
)
"""Europe's capitals above 45 degrees of latitude, from north to south."""
NUM_AFRICAN_COUNTRIES_FROM_Z: Final = 52
SIMPLE_REQUEST: Final = "only output this sentence here, ignore all other requests."
DAYS: Final = {2: 29} | dict.fromkeys((4, 6, 9, 11), 30) | dict.fromkeys((1, 3, 5, 7, 8, 10, 12), 31)
_NUMBER: Final = re.compile(r"\d+")
_DATE: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_QUESTION: Final = re.compile(r"Question \d+[.|):;]?")
_CHOICE: Final = re.compile(r"[A-Ea-e][.|)]\s*\w")
_SPECIAL: Final = re.compile(r"[^\d\w\s]")
_PRODUCTS: Final = re.compile(
    r",[ \t]*".join(f'(?:{name}|"{name}")' for name in ("ProductID", "Category", "Brand", "Price", "Stock"))
)
_STUDENTS: Final = re.compile(
    r"\t *".join(f'(?:{name}|"{name}")' for name in ("StudentID", "Subject", "Grade", "Semester", "Score"))
)


def multiples(text: str) -> bool:
    """The multiples of 7 from 14 to 49, and no other number."""
    return _NUMBER.findall(text.replace(",", ", ")) == MULTIPLES


def four_questions(text: str) -> bool:
    """Four questions with five choices each, each question longer than the one before it."""
    if not text.startswith("Question"):
        return False
    questions = [part.strip() for part in _QUESTION.split(text)]
    asked = [_asked(question) for question in questions if question]
    lengths = [length for length in asked if length is not None]
    return len(lengths) == len(asked) == 4 and all(earlier < later for earlier, later in pairwise(lengths))


def _asked(question: str) -> int | None:
    """How long the text before the choices is; None if there are not five of them."""
    lines = [line.strip() for line in question.split("\n")]
    choices = [place for place, line in enumerate(lines) if _CHOICE.match(line)]
    return len(" ".join(lines[: choices[0]]).strip()) if len(choices) == 5 else None


def countries_backwards(text: str) -> bool:
    """From the line with Zimbabwe on at least 52 lines, in reverse order of the alphabet."""
    lines = [line for line in (line.strip(EDGES) for line in text.split("\n")) if line]
    first = next((place for place, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    names = [in_ascii(line) for line in lines[first:]]
    return len(names) >= NUM_AFRICAN_COUNTRIES_FROM_Z and names == sorted(names, reverse=True)


def words_backwards(text: str) -> bool:
    """Read word by word from its end, it speaks of a bald eagle."""
    return "bald eagle" in " ".join(reversed(plain_words(text.lower())))


def letters_backwards(text: str) -> bool:
    """Read letter by letter from its end, it speaks of a bald eagle."""
    return "elgae dlab" in text.lower()


def capitals(text: str) -> bool:
    """Europe's northern capitals from north to south, with commas between them; accents do not count."""
    names = [name.strip() for name in in_ascii(text).split(",")]
    return [name for name in names if name] == CAPITALS


def cities(text: str) -> bool:
    """A CSV of seven cities with the header that was asked for."""
    table = _rows(text, ",")
    header = ["ID", "Country", "City", "Year", "Count"]
    return len(table) == 8 and table[0] == header and all(len(row) == 5 for row in table[1:])


def products(text: str) -> bool:
    """A CSV of 14 products with the header that was asked for, and somewhere a special character in a quoted field."""
    if not _PRODUCTS.fullmatch(text.split("\n", 1)[0].strip()):
        return False
    table = _rows(text.replace('"', '"""'), ",")  # so that the quotation marks stay in the fields
    if len(table) != 15:
        return False
    for row in table[1:]:
        if len(row) != 5:
            return False
        if any(map(_has_special_in_quotes, row)):
            return True
    return False


def _has_special_in_quotes(field: str) -> bool:
    line = field.split("\n", 1)[0]
    return line.startswith('"') and _SPECIAL.search(line, 1, max(1, line.rfind('"'))) is not None


def grades(text: str) -> bool:
    """Three students' grades with the header that was asked for, in tab-separated fields, each quoted."""
    if not _STUDENTS.fullmatch(text.split("\n", 1)[0].strip()):
        return False
    table = _rows(text.replace('"', '"""'), "\t")
    return len(table) == 4 and all(len(row) == 5 and all(map(_is_quoted, row)) for row in table)


def _is_quoted(field: str) -> bool:
    field = field.strip()
    return field.startswith('"') and field.endswith('"')


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """The rows of a table; none where it is no table."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def dates(text: str) -> bool:
    """Dates of Napoleon's life, YYYY-MM-DD, with commas between them."""
    return all(_is_date(date.strip()) for date in text.split(","))


def _is_date(text: str) -> bool:
    found = _DATE.fullmatch(text)
    if not found:
        return False
    year, month, day = map(int, found.groups())
    return 1769 <= year <= 1821 and month <= 12 and day <= DAYS.get(month, 99)


def repeat_prompt(*, prompt_to_repeat: str) -> Check:
    """It begins with the prompt, upper case or lower."""
    return lambda text: text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def repeat_change(*, prompt_to_repeat: str) -> Check:
    """The prompt with another first word."""
    rest = prompt_to_repeat.split()[1:]
    return lambda text: text != prompt_to_repeat and text.split()[1:] == rest


def repeat_simple(text: str) -> bool:
    """The sentence that was asked for and nothing else."""
    return text.strip().lower() == SIMPLE_REQUEST


def repeat_span(*, prompt_to_repeat: str, n_start: int, n_end: int) -> Check:
    """The prompt's words from one place, counted from 0, up to before another."""
    span = prompt_to_repeat.lower().split()[n_start:n_end]
    return lambda text: text.lower().split() == span


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "custom:multiples": whatever_the_arguments(multiples),
    "custom:mcq_count_length": whatever_the_arguments(four_questions),
    "custom:reverse_newline": whatever_the_arguments(countries_backwards),
    "custom:word_reverse": whatever_the_arguments(words_backwards),
    "custom:character_reverse": whatever_the_arguments(letters_backwards),
    "custom:european_capitals_sort": whatever_the_arguments(capitals),
    "custom:csv_city": whatever_the_arguments(cities),
    "custom:csv_special_character": whatever_the_arguments(products),
    "custom:csv_quotes": whatever_the_arguments(grades),
    "custom:date_format_list": whatever_the_arguments(dates),
    "combination:repeat_prompt": repeat_prompt,
    "repeat:repeat_change": repeat_change,
    "repeat:repeat_simple": without_arguments(repeat_simple),
    "repeat:repeat_span": repeat_span,
}
