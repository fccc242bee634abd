"""What a reward returned, as a Score: nothing that goes wrong ever becomes a number."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slimrl.errors import RewardError
from slimrl.types import Score

MAX_REASON_CHARS = 500
MAX_TEXT_CHARS = 2_000
"""Of a string inside what a reward returned; the run keeps every sample's."""


def to_score(returned: object, *keys: str | None, value_required: bool = True) -> Score:
    """The outcome of one call that returned.

    A number (bool, int, float, a numpy or torch scalar) is the value. Of a mapping the first of `keys` that it has
    picks the value, or without keys its only entry does; its numbers are the components. A Score is taken as it is,
    None abstains. Everything else, and a value that is not finite, is an error with a reason; a mapping without a
    key to pick is one too, unless no value is required.
    """
    try:
        return _to_score(returned, tuple(key for key in keys if key is not None), value_required)
    except (RewardError, RecursionError, OverflowError, ValueError) as error:
        return failed(str(error), returned)


def failed(reason: str, returned: object = None) -> Score:
    """An error outcome."""
    try:
        reward = plain(returned)
    except (RecursionError, OverflowError, ValueError):
        reward = None
    return Score(status="error", reward=reward, reason=reason[:MAX_REASON_CHARS])


def plain(value: object) -> Any:  # Any: a JSON value
    """`value` as a JSON value; what JSON has no word for becomes text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value[:MAX_TEXT_CHARS]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item) for item in value]
    number = as_number(value)
    if number is None:
        return repr(value)[:MAX_TEXT_CHARS]
    if isinstance(number, float) and not math.isfinite(number):
        return str(number)
    return number


def as_number(value: object) -> bool | int | float | None:
    """`value` as a Python number if it is one: bool, int, float, a fraction, a numpy or torch scalar."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        found = item()
        return found if isinstance(found, bool | int | float) else None
    return None


def _to_score(returned: object, keys: tuple[str, ...], value_required: bool) -> Score:
    if returned is None:
        return Score(status="abstained", reason="the reward returned None")
    if isinstance(returned, Score):
        return _checked(returned)
    if isinstance(returned, Mapping):
        return _from_mapping(returned, keys, value_required)
    if hasattr(returned, "__await__"):
        close = getattr(returned, "close", None)
        if callable(close):
            close()  # a coroutine that is never awaited warns
        raise RewardError("the reward returned an awaitable from a plain function; write it as `async def`")
    return Score(status="scored", value=_value(returned), reward=plain(returned))


def _from_mapping(returned: Mapping[Any, Any], keys: tuple[str, ...], value_required: bool) -> Score:
    numbers_by_name = {str(name): as_number(item) for name, item in returned.items()}
    components = {
        name: float(number) for name, number in numbers_by_name.items() if number is not None and math.isfinite(number)
    }
    reward = plain(returned)
    key = _picked(returned, keys)
    if key is None:
        if not value_required:
            return Score(status="scored", reward=reward, components=components)
        raise RewardError(_no_key(returned, keys))
    if returned[key] is None:
        return Score(status="abstained", reward=reward, components=components, reason=f"the reward's {key!r} is None")
    return Score(status="scored", value=_value(returned[key]), reward=reward, components=components)


def _picked(returned: Mapping[Any, Any], keys: tuple[str, ...]) -> Any:  # Any: a mapping's key
    if not keys:
        return next(iter(returned)) if len(returned) == 1 else None
    return next((key for key in keys if key in returned), None)


def _no_key(returned: Mapping[Any, Any], keys: tuple[str, ...]) -> str:
    has = ", ".join(repr(str(key)) for key in list(returned)[:20]) or "no keys"
    if not keys:
        return f"the reward returned the keys {has}; say which is trained on with --reward-key"
    return f"the reward returned no {' or '.join(map(repr, keys))} (--reward-key); it has {has}"


def _value(returned: object) -> float:
    number = as_number(returned)
    if number is None:
        raise RewardError(
            f"the reward returned {type(returned).__name__} {repr(returned)[:80]}; it returns a number, a mapping, "
            f"a Score or None"
        )
    value = float(number)
    if not math.isfinite(value):
        raise RewardError(f"the reward returned {value}, which is not finite")
    return value


def _checked(score: Score) -> Score:
    if (score.status == "scored") != (score.value is not None):
        raise RewardError(f"the reward returned a Score with status {score.status!r} and value {score.value!r}")
    value = None if score.value is None else _value(score.value)
    components = {str(name): _value(item) for name, item in score.components.items()}
    return replace(
        score,
        value=value,
        reward=plain(score.reward),
        components=components,
        reason=str(score.reason)[:MAX_REASON_CHARS],
    )
