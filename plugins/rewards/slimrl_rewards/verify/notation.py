r"""One spelling for what is written in many: Unicode and LaTeX spacing, brackets and fonts."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
SUPERSCRIPT: Final = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
VULGAR: Final = re.compile("[¼½¾⅐-⅞]")
CHARACTERS: Final = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{HYPHEN}": "-",
    "\N{NON-BREAKING HYPHEN}": "-",
    "\N{MULTIPLICATION SIGN}": "\\times ",
    "\N{DIVISION SIGN}": "/",
    "\N{FRACTION SLASH}": "/",
    "\N{MIDDLE DOT}": "\\cdot ",
    "\N{DOT OPERATOR}": "\\cdot ",
    "\N{ASTERISK OPERATOR}": "*",
    "π": "\\pi ",
    "∞": "\\infty ",
    "√": "\\sqrt ",
    "°": "\\degree ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "\N{UNION}": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "\N{DOUBLE-STRUCK CAPITAL R}": "\\mathbb{R}",
    "θ": "\\theta ",
    "\N{GREEK SMALL LETTER ALPHA}": "\\alpha ",
    "β": "\\beta ",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "€": "\\euro ",
    "£": "\\pounds ",
    "¥": "\\yen ",
    "\N{FULLWIDTH DOLLAR SIGN}": "\\$",
}
TABLE: Final = str.maketrans(CHARACTERS)
SIZES: Final = re.compile(
    r"\\(?:left|right|middle)\s*\.(?!\d)"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it)(?![a-zA-Z])\s*"
)
THIN_THOUSANDS: Final = re.compile(r"(?<=\d)(?:\\[,;: !]|\{,\}|,\\!)\s*(?=\d{3}(?!\d))")
SPACED_THOUSANDS: Final = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?", re.ASCII)
SPACES: Final = re.compile(r"\\[,;: !]|\\(?:quad|qquad|thinspace|enspace|hfill|newline|nobreak)(?![a-zA-Z])|[~\s]")
BLANKS: Final = re.compile(r" {2,}")
DEGREE: Final = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z])|\{\s*\\degree\s*\})|\\degree(?![a-zA-Z])")
FONT: Final = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathtt|mathcal|textbf|textit|emph|underline|displaystyle|vec|ensuremath)\s*\{([^{}]*)\}"
)
FONT_NAME: Final = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|textbf|textit|ensuremath)(?=\s*\{)")
DOLLAR: Final = re.compile(r"(?<!\\)\$")
WHOLE_TEXT: Final = re.compile(r"\\(?:text|textrm|mathrm|mbox|textnormal|operatorname)\s*\{([^{}]*)\}")
DELIMITERS: Final = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))
LEADING: Final = re.compile(r"^(?:\\(?:approx|therefore|Rightarrow|implies)(?![a-zA-Z])|=|:)\s*")
TAIL: Final = " .,;:"


def tidy(text: str) -> str:
    """An answer in one spelling, without the dollars and full stops around it."""
    text = VULGAR.sub(
        lambda match: " " + unicodedata.normalize("NFKC", match[0]).replace("\N{FRACTION SLASH}", "/"), text
    )
    text = SUPERSCRIPT.sub(lambda match: "^{" + match[0].translate(SUPERSCRIPTS) + "}", text)
    text = text.translate(TABLE)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(TABLE)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
    text = SIZES.sub("", text) if "\\" in text else text
    text = THIN_THOUSANDS.sub("", text)
    text = text.replace("\\\\", "\0")  # the end of a matrix row is no backslash before what follows
    text = SPACES.sub(" ", text).replace("\0", "\\\\")
    text = DEGREE.sub("\\\\degree ", text)
    if "\\" in text:
        text = FONT_NAME.sub("", FONT.sub(r" \1 ", text))
    text = _unwrap(BLANKS.sub(" ", text))
    if len(DOLLAR.findall(text)) > 1:  # mathematics inside of the answer, as in `x = $5$`
        text = DOLLAR.sub("", text)
    return text.replace(" ", "") if SPACED_THOUSANDS.fullmatch(text) else text


def key(tidied: str) -> str:
    """What two tidied answers have in common if they are the same text: blanks count between digits and words only."""
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", tidied)


def _unwrap(text: str) -> str:
    for _ in range(8):  # layers around one answer; nobody means more
        before = text
        text = text.strip(" ").rstrip(TAIL.replace(".", "") if text.rstrip(" ").endswith("...") else TAIL)
        text = LEADING.sub("", text)
        for opening, closing in DELIMITERS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                inside = text[len(opening) : -len(closing)]
                if opening not in inside and not inside.endswith("\\"):
                    text = inside
        if text.startswith("{") and text.endswith("}") and _closes_last(text):
            text = text[1:-1]
        whole = WHOLE_TEXT.fullmatch(text)
        if whole is not None and any(character.isdigit() for character in whole[1]):
            text = whole[1]
        if text == before:
            break
    return text


def _closes_last(text: str) -> bool:
    depth = 0
    escaped = False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return position == len(text) - 1
    return False
