"""Instructions about marks: brackets, quotation marks, tags, and words that a response has, begins or ends with."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from typing import Final

from slimrl_rewards.instructions.check import Check, MakeCheck, without_arguments
from slimrl_rewards.instructions.text import EDGES

ANSWERS: Final = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
TEMPLATE: Final = ("My Answer:", "My Conclusion:", "Future Outlook:")
MIN_BRACKETS: Final = 5
MIN_QUOTES: Final = 3
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_LETTERED: Final = re.compile(r"\W*[aA]\W*[bB]\W*[cC]\W*")
_POSTSCRIPTS: Final = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def number_placeholders(*, num_placeholders: int) -> Check:
    """At least so many times something in square brackets, on one line."""
    return lambda text: sum(map(_num_bracketed, text.split("\n"))) >= num_placeholders


def _num_bracketed(line: str) -> int:
    count = 0
    opening = line.find("[")
    while opening >= 0:
        closing = line.find("]", opening)
        if closing < 0:
            break
        count += 1
        opening = line.find("[", closing)
    return count


def postscript(*, postscript_marker: str) -> Check:
    """The marker occurs, upper case or lower; one that is not P.S. or P.P.S is a regular expression, as in IFEval."""
    marker = postscript_marker.strip()
    try:
        pattern = re.compile(_POSTSCRIPTS.get(marker, marker.lower()), re.MULTILINE)
    except re.error:
        pattern = re.compile(re.escape(marker.lower()))
    return lambda text: pattern.search(text.lower()) is not None


def constrained_response(text: str) -> bool:
    """One of three answers occurs."""
    return any(answer in text for answer in ANSWERS)


def is_json(text: str) -> bool:
    """JSON and nothing else; it may stand in a Markdown fence. Nested deeper than a parser reads, it is none."""
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """A title in `<<` and `>>`, on one line."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def end_checker(*, end_phrase: str) -> Check:
    """The last words are these, upper case or lower; quotation marks after them do not count."""
    return lambda text: text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """All of it stands in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def no_comma(text: str) -> bool:
    """No comma."""
    return "," not in text


def nested_parentheses(text: str) -> bool:
    """Brackets nested five deep, at least the innermost closed; one that closes no open one begins anew."""
    expected: list[str] = []
    for character in text:
        if character in _CLOSING:
            expected.append(_CLOSING[character])
        elif character in ")]}":
            if not expected or expected.pop() != character:
                expected = []
            elif len(expected) + 1 >= MIN_BRACKETS:
                return True
    return False


def nested_quotes(text: str) -> bool:
    """Quotation marks nested three deep, single and double by turns, and closed."""
    opened: list[str] = []
    deepest = 0
    for character in text:
        if opened and character == opened[-1]:
            opened.pop()
            if deepest - len(opened) >= MIN_QUOTES:
                return True
        elif character in "\"'":
            opened.append(character)
            deepest = max(deepest, len(opened))
    return False


def options(*, options: str) -> Check:
    """One of the options and nothing else; lettered ones, a b c, to the character."""
    separator = next((separator for separator in ("/", "or") if separator in options), ",")
    choices = [choice.strip() for choice in options.split(separator)]
    if _LETTERED.match(options):
        return lambda text: text in choices
    plain = {choice.strip(EDGES).lower() for choice in choices}
    return lambda text: text.strip(EDGES).lower() in plain


def explained_quotes(text: str) -> bool:
    """Something stands between two quotations, and after the last; digits and punctuation do not count there."""
    text = "".join(text.replace("“", '"').replace("”", '"').replace("'\"'", "").split())
    rest = text.strip(string.digits + string.punctuation.replace('"', ""))
    return '""' not in text and not rest.endswith('"')


def thesis_in_italics(text: str) -> bool:
    """Something in the HTML tag for italics, and something after it."""
    opening = next((place for place in (text.find("<i>"), text.find("<em>")) if place >= 0), None)
    if opening is None:
        return False
    text = text[opening:]
    closing = next((place for place in (text.find("</i>"), text.find("</em>")) if place >= 0), None)
    # Three and four characters for `<em>` too, as in IFBench: its thesis is never empty, nor what follows it.
    return closing is not None and bool(text[3:closing].strip()) and bool(text[closing + 4 :].strip())


def output_template(text: str) -> bool:
    """The three headings of the template occur."""
    return all(heading in text for heading in TEMPLATE)


def no_whitespace(text: str) -> bool:
    """No white space."""
    return not any(map(str.isspace, text))


INSTRUCTIONS: Final[Mapping[str, MakeCheck]] = {
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:constrained_response": without_arguments(constrained_response),
    "detectable_format:json_format": without_arguments(is_json),
    "detectable_format:title": without_arguments(has_title),
    "startend:end_checker": end_checker,
    "startend:quotation": without_arguments(quotation),
    "punctuation:no_comma": without_arguments(no_comma),
    "format:parentheses": without_arguments(nested_parentheses),
    "format:quotes": without_arguments(nested_quotes),
    "format:options": options,
    "format:quote_unquote": without_arguments(explained_quotes),
    "format:thesis": without_arguments(thesis_in_italics),
    "format:output_template": without_arguments(output_template),
    "format:no_whitespace": without_arguments(no_whitespace),
}
