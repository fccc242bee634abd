"""Samples that a model or a data set will produce one day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from slimrl.types import Sample

MEGABYTE: Final = 1 << 20
HUGE_TEXTS: Final = (" ", "7", "a", "\\", "{", "(", "answer ", "the number is 7. ", "\\boxed{")
"""A regular expression or a parser that is not linear in the text shows on one of them."""
ODD_LABELS: Final[tuple[Any, ...]] = (
    "",
    "   ",
    0,
    -1.5,
    True,
    [],
    ["7", "8"],
    {"answer": "7"},
    "\x00\ud83d",
    "7" * 10_000,
)
ODD_TEXTS: Final = (
    "the answer is \u0667 \u0968 \uff17 \u2166",
    "\U0001f9ee 7\u200d\u200b\u202e8",
    "\x00\x1b[31m7\r\n\t",
    "\ufffd\ud83d",
    "7\u0301\u0302\u0303",
)
ODD_METADATA: Final[tuple[Mapping[str, Any], ...]] = (
    {"rm_type": 3, "": None},
    {"answer": None, "ground_truth": [], "choices": "A"},
    {"nested": {"deep": [[[{}]]]}, "text": "x" * 10_000},
)


def malformed(usual: Sample) -> dict[str, tuple[str, list[Sample]]]:
    """By check: what is odd, and samples with that oddity that are `usual` in everything else."""

    def responses(*texts: str) -> list[Sample]:
        return [replace(usual, response=text, tokens=list(text[:100].encode(errors="replace"))) for text in texts]

    return {
        "empty_response": ("an empty or blank response", responses("", " ", "\n\n\n")),
        "huge_response": (
            "a response of a megabyte",
            responses(*(text * (MEGABYTE // len(text)) for text in HUGE_TEXTS)),
        ),
        "odd_response": ("digits, signs and marks of other scripts, control characters", responses(*ODD_TEXTS)),
        "no_label": ("no label", [replace(usual, label=None)]),
        "odd_label": ("a label of another type", [replace(usual, label=label) for label in ODD_LABELS]),
        "no_metadata": ("no metadata", [replace(usual, metadata={})]),
        "odd_metadata": ("metadata with odd keys and values", [replace(usual, metadata=dict(m)) for m in ODD_METADATA]),
    }
