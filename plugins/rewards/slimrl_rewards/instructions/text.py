"""Words of a response as IFEval and IFBench count them."""

from __future__ import annotations

import string
import unicodedata
from typing import Final

EDGES: Final = string.punctuation + " "
"""What is taken off the ends of a word or a line."""

_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def without_punctuation(text: str) -> str:
    """The text without ASCII punctuation; what stood on its two sides comes together."""
    return text.translate(_NO_PUNCTUATION)


def plain_words(text: str) -> list[str]:
    """What white space separates once ASCII punctuation is gone."""
    return without_punctuation(text).split()


def in_ascii(text: str) -> str:
    """The text without accents, and without whatever has no ASCII letter under its accent."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
