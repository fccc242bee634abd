r"""Reward `dapo`: +1 if the number after the reply's last "Answer:" is the label, else -1; slime's verdicts.

The answer is normalised as for the MATH problems in Lewkowycz et al. (2022), "Solving Quantitative Reasoning Problems
with Language Models", appendix D; the label is an integer, as in DAPO (Yu et al. 2025).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypedDict

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, last_boxed, reward_traits

TAIL_CHARS: Final = 300
BOX_TAIL_CHARS: Final = 100
MAX_LABEL_CHARS: Final = 1_000
"""Longer labels are refused: some of the rules below take time quadratic in the text."""
MAX_EXACT_FLOAT: Final = 2**53
ANSWER: Final = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
NO_ANSWER: Final = "[INVALID]"
REPLACEMENTS: Final = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
NOISE: Final = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "hours", "km", "units", "\\ldots", "sue"),
    *("points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals"),
    *("edges", "students", "childrentickets", "multiples"),
    *("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}"),
    *("\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
    *("<|im_end|>", "<|endoftext|>"),
)
WRAPPED: Final = (
    re.compile(r"\\text\{(.*?)\}"),
    re.compile(r"\\textbf\{(.*?)\}"),
    re.compile(r"\\overline\{(.*?)\}"),
    re.compile(r"\\boxed\{(.*)\}"),
)
SHORT_FRAC: Final = re.compile(r"frac([^{])(.)")
SHORT_SQRT: Final = re.compile(r"sqrt([^{])")


@dataclass(frozen=True)
class DapoOptions:
    """The reward `dapo`: where in a reply the answer is looked for."""

    dapo_strict_box_verify: bool = False
    """Compare the last box in the last 100 characters with the label as it stands, not what follows `Answer:`."""


class DapoScore(TypedDict):
    """What the reward says of a sample; `score` is what is trained on."""

    score: float
    acc: bool
    pred: str | None
    """The answer that was compared; None where the strict form finds no box."""


def make(options: PluginOptions) -> Reward:
    """The reward, strict about boxes if the option says so."""
    truth_of_label = lru_cache(maxsize=1024)(truth_of)  # a group's samples share their label

    @reward_traits(pure=True, inline=True, key="score")
    def score(sample: Sample) -> DapoScore:
        matches = ANSWER.findall(sample.response[-TAIL_CHARS:])
        answer = normalise(matches[-1] if matches else NO_ANSWER)
        return _verdict(answer, truth_of_label(_label_text(sample)))

    @reward_traits(pure=True, inline=True, key="score")
    def score_box(sample: Sample) -> DapoScore:
        return _verdict(last_boxed(sample.response[-BOX_TAIL_CHARS:]), _label_text(sample))

    return score_box if options[DapoOptions].dapo_strict_box_verify else score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `dapo`."""
    return {"dapo": make}


@hookimpl
def slimrl_options() -> Sequence[type]:
    """The flag of `dapo`."""
    return [DapoOptions]


def truth_of(label: str) -> str:
    """The integer that a label is, fractions cut off; RewardError for what is no number."""
    try:
        if len(label) > MAX_LABEL_CHARS:
            raise ValueError
        text = normalise(label)
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        # A larger float may not be the integer that is written.
        return str(int(number if abs(number) < MAX_EXACT_FLOAT else Decimal(text)))
    except ValueError:
        raise RewardError(f"dapo: the label must be a finite number, not {label!r:.100}") from None


def normalise(answer: str) -> str:
    """An answer without words, units and LaTeX around it: what equal answers have in common."""
    text = answer.rpartition("=")[2]
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    for noise in NOISE:
        text = text.replace(noise, "")
    parts = text.split("$", 2)
    if len(parts) == 3:
        text = f"${parts[1]}$"
    for wrapped in WRAPPED:
        text = wrapped.sub(r"\1", text)
    text = SHORT_FRAC.sub(r"frac{\1}{\2}", text)
    text = SHORT_SQRT.sub(r"sqrt{\1}", text).replace("$", "")
    digits = text.replace(",", "")
    return (digits if digits.isdigit() else text).strip()


def _label_text(sample: Sample) -> str:
    if isinstance(sample.label, list | dict):  # never printed whole: it may be as long as it likes
        raise RewardError(f"dapo: the label must be a number, not a {type(sample.label).__name__}")
    return str(sample.label)


def _verdict(answer: str | None, truth: str) -> DapoScore:
    is_right = answer == truth
    return {"score": 1.0 if is_right else -1.0, "acc": is_right, "pred": answer}
