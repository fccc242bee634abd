"""Units of measurement: which words are units, and how many of one make another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

UNITS: Final[dict[str, tuple[Fraction, str]]] = {}
"""Name to its size in the unit of its dimension."""


def _define(dimension: str, names: str, size: str) -> None:
    for name in names.split():
        UNITS[name] = (Fraction(size), dimension)


_define("L", "m meter metre", "1.0")
_define("L", "cm centimeter centimetre", "0.01")
_define("L", "mm millimeter millimetre", "0.001")
_define("L", "km kilometer kilometre", "1000.0")
_define("L", "in inch inche", "0.0254")
_define("L", "ft foot feet", "0.3048")
_define("L", "yd yard", "0.9144")
_define("L", "mi mile", "1609.344")
_define("T", "s sec second", "1.0")
_define("T", "min minute", "60.0")
_define("T", "h hr hour", "3600.0")
_define("T", "day", "86400.0")
_define("T", "week", "604800.0")
_define("M", "g gram", "1.0")
_define("M", "mg milligram", "0.001")
_define("M", "kg kilogram", "1000.0")
_define("M", "lb lbs pound", "453.59237")
_define("M", "oz ounce", "28.349523125")
_define("V", "l L liter litre", "1.0")
_define("V", "ml mL milliliter millilitre", "0.001")
_define("$", "dollar usd USD buck", "1.0")
_define("$", "cent", "0.01")
_define("€", "euro EUR", "1.0")
_define("£", "pounds GBP", "1.0")
_define("¥", "yen JPY", "1.0")
COMPOUNDS: Final = {
    "mph": "mile/hour",
    "kmh": "km/hour",
    "kph": "km/hour",
    "sq": "square",
    "squared": "^2",
    "cubed": "^3",
}
PLAIN_WORDS: Final = frozenset(name for name in UNITS if len(name) > 1) - {"in", "min", "day"} | frozenset(
    [
        "mph",
        "kph",
        "square",
        "cubic",
        "units",
        "unit",
        "sq",
        "day",
        "days",
        "minutes",
        "degree",
        "degrees",
        "percent",
        "radians",
    ]
)
"""Units that are words of their own where there is no \\text around them; letters alone are variables."""
ARTICLES: Final = frozenset(
    ["rad", "radian", "radians", "of", "a", "an", "the", "unit", "in", "total", "approx", "exactly", "each"]
)
PIECE: Final = re.compile(r"[A-Za-z$€£¥%]+|\^-?\d+|[/*]")


@dataclass(frozen=True, slots=True)
class Dimension:
    """A product of powers of dimensions, and how much of it a unit is; a word of no table is a dimension itself."""

    powers: tuple[tuple[str, int], ...]
    size: Fraction


def is_plain_unit(word: str) -> bool:
    """Whether a word outside \\text names a unit."""
    return word in PLAIN_WORDS or singular(word) in PLAIN_WORDS


def singular(word: str) -> str:
    """A unit's name without its plural ending; names of three letters and fewer have none."""
    if word in UNITS:
        return word
    lower = word.lower()
    if lower in UNITS and len(lower) > 2:
        return lower
    return lower[:-1] if len(lower) > 2 and lower.endswith("s") and not lower.endswith("ss") else lower


def dimension(unit: str) -> Dimension:
    """What a unit measures: `km/h`, `square meters`, `m^2`, `dollars per hour`, `apples`."""
    powers: dict[str, int] = {}
    size = Fraction(1)
    sign, pending = 1, 1
    last: tuple[str, Fraction, int] | None = None
    text = re.sub(r"[A-Za-z]+", lambda match: COMPOUNDS.get(match[0].lower(), match[0]), unit)
    for piece in PIECE.findall(text):
        if piece == "/" or piece == "per":
            sign = -1
        elif piece[0] == "^":
            if last is not None:
                extra = max(-9, min(9, int(piece[1:]))) - 1
                powers[last[0]] = powers.get(last[0], 0) + last[2] * extra
                size *= last[1] ** (last[2] * extra)
        elif piece in ("square", "cubic"):
            pending = 2 if piece == "square" else 3
        elif piece != "*" and piece.lower() not in ARTICLES and piece.lower() != "units":
            amount, of = UNITS.get(singular(piece), (Fraction(1), singular(piece)))
            power = sign * pending
            powers[of] = powers.get(of, 0) + power
            size *= amount**power
            last, pending = (of, amount, sign), 1
    if powers.get("V") and not powers.get("L"):  # a litre is a thousandth of a cubic metre
        volume = powers.pop("V")
        powers["L"], size = 3 * volume, size * Fraction(1, 1000) ** volume
    return Dimension(tuple(sorted((name, power) for name, power in powers.items() if power)), size)
