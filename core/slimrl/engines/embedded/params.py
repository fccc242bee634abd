"""Sampling parameters in SGLang's names: parsed and checked when a request comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from slimrl.errors import EngineError

MAX_STOP_STRINGS = 32
GREEDY_BELOW = 1e-6
"""Temperatures below this take the likeliest token, as SGLang does."""

_UNSUPPORTED = ("stop_regex", "json_schema", "regex", "ebnf", "structural_tag", "custom_params")


class RequestError(EngineError):
    """A request asks for something that cannot be; the server answers 400."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn and when to stop; defaults are SGLang's."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    sampling_seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def has_filter(self) -> bool:
        """Whether some tokens may not be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    @property
    def has_penalty(self) -> bool:
        """Whether what was generated changes what is drawn."""
        return self.frequency_penalty != 0 or self.presence_penalty != 0 or self.repetition_penalty != 1


_NAMES = frozenset(field.name for field in fields(Sampling))


def parse_sampling(given: Mapping[str, Any], vocab_size: int) -> Sampling:
    """Sampling parameters from a request's JSON object; raises RequestError naming field and value."""
    if not isinstance(given, Mapping):
        raise RequestError(f"sampling_params is {_kind(given)}, not an object")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _UNSUPPORTED:
            if value is not None:
                raise RequestError(f"sampling parameter {name!r} is not supported by this engine")
        elif name not in _NAMES:
            raise RequestError(f"unknown sampling parameter {name!r}; there are: {', '.join(sorted(_NAMES))}")
        elif value is not None:
            values[name] = value
    for name in ("max_new_tokens", "top_k", "min_new_tokens", "n", "sampling_seed"):
        _require(values, name, int)
    for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"):
        _require(values, name, float)
    for name in ("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim"):
        _require(values, name, bool)
    if "stop" in values:
        values["stop"] = _stop_strings(values["stop"])
    if "stop_token_ids" in values:
        values["stop_token_ids"] = frozenset(_token_ids("stop_token_ids", values["stop_token_ids"]))
    if "logit_bias" in values:
        values["logit_bias"] = _logit_bias(values["logit_bias"], vocab_size)
    sampling = Sampling(**values)
    _check_ranges(sampling)
    return sampling


def _check_ranges(sampling: Sampling) -> None:
    rules = (
        ("max_new_tokens", sampling.max_new_tokens >= 0, "at least 0"),
        ("temperature", sampling.temperature >= 0, "at least 0"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("top_k", sampling.top_k >= 1 or sampling.top_k == -1, "at least 1, or -1 for all"),
        ("min_p", 0 <= sampling.min_p <= 1, "between 0 and 1"),
        ("frequency_penalty", -2 <= sampling.frequency_penalty <= 2, "between -2 and 2"),
        ("presence_penalty", -2 <= sampling.presence_penalty <= 2, "between -2 and 2"),
        ("repetition_penalty", 0 < sampling.repetition_penalty <= 2, "above 0 and at most 2"),
        ("min_new_tokens", 0 <= sampling.min_new_tokens <= sampling.max_new_tokens, "between 0 and max_new_tokens"),
        ("n", sampling.n >= 1, "at least 1"),
    )
    for name, holds, range_ in rules:
        if not holds:
            raise RequestError(f"{name} must be {range_}, got {getattr(sampling, name)}")


def _require(values: dict[str, Any], name: str, kind: type) -> None:
    if name not in values:
        return
    value = values[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = values[name] = float(value)
    is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not is_kind or (kind is float and not math.isfinite(value)):
        raise RequestError(f"{name} must be a {'finite ' if kind is float else ''}{kind.__name__}, got {value!r}")


def _stop_strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or not all(isinstance(string, str) and string for string in strings):
        raise RequestError(f"stop must be a string or a list of non-empty strings, got {value!r}")
    if len(strings) > MAX_STOP_STRINGS:
        raise RequestError(f"stop has {len(strings)} strings; at most {MAX_STOP_STRINGS} are allowed")
    return tuple(strings)


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise RequestError(f"{name} must be a list of token ids, got {value!r}")
    return value


def _logit_bias(value: Any, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise RequestError(f"logit_bias must be an object of token id to number, got {value!r}")
    try:
        bias = tuple((int(token), float(weight)) for token, weight in value.items())
    except (TypeError, ValueError):
        raise RequestError(f"logit_bias must be an object of token id to number, got {value!r}") from None
    for token, weight in bias:
        if not 0 <= token < vocab_size or not math.isfinite(weight):
            raise RequestError(f"logit_bias gives {weight} to token {token}; ids are below {vocab_size}")
    return bias


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
