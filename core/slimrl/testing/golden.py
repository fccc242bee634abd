"""An author's examples: what a reward should say of a response."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from slimrl.config.settings import did_you_mean
from slimrl.errors import DataError
from slimrl.testing.samples import make_sample
from slimrl.types import Prompt, Sample, Score

NOTHING: Final = object()
"""An example without an expected score: that it is scored at all is what counts."""

KEYS: Final = ("response", "label", "expected", "prompt", "metadata")


@dataclass(frozen=True)
class Golden:
    """One example; `expected` is a number, a mapping of components, None (abstains) or "error"."""

    response: str
    label: Any = None  # Any: a label is any JSON value
    expected: Any = NOTHING  # Any: see above
    prompt: Prompt = "What is 3 + 4?"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    """Where it was read: file and line."""

    def sample(self, place: int) -> Sample:
        """The example as a sample."""
        return make_sample(self.response, self.label, self.metadata, self.prompt, sample_id=place)

    def miss(self, score: Score) -> str | None:
        """What is wrong with an outcome; None for the expected one."""
        if self.expected is NOTHING:
            return None if score.status in ("scored", "abstained") else f"{score.status}: {score.reason}"
        if isinstance(self.expected, str):
            return None if score.status == self.expected else f"{_told(score)}, expected {self.expected}"
        if self.expected is None:
            return None if score.status == "abstained" else f"{_told(score)}, expected to abstain"
        if score.status != "scored":
            return f"{_told(score)}, expected {self.expected}"
        if isinstance(self.expected, Mapping):
            wrong = {k: v for k, v in self.expected.items() if not _same(score.components.get(str(k)), v)}
            return f"its components are {dict(score.components)}, expected {wrong}" if wrong else None
        return None if _same(score.value, self.expected) else f"{_told(score)}, expected {self.expected}"


def as_golden(items: Iterable[object] | Path) -> list[Golden]:
    """Examples from tuples (response, label, expected), mappings or Goldens, or from a JSONL file of mappings."""
    if isinstance(items, Path):
        return read_golden(items)
    return [_one(item, f"example {place}") for place, item in enumerate(items)]


def read_golden(path: Path) -> list[Golden]:
    """Examples of a JSONL file; DataError names file, line and key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"examples {path}: {getattr(error, 'strerror', None) or error}") from error
    examples: list[Golden] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            examples.append(_one(row, f"{path.name}:{number}"))
    if not examples:
        raise DataError(f"examples {path}: the file has none")
    return examples


def _one(item: object, where: str) -> Golden:
    if isinstance(item, Golden):
        return item
    if isinstance(item, Mapping):
        if not isinstance(item.get("response"), str):
            raise DataError(f"{where}: an example needs a text 'response'; it has: {', '.join(map(str, item))}")
        for key in item.keys() - KEYS:  # other keys may be there, one that was meant to be read may not
            if close := did_you_mean(str(key), KEYS):
                raise DataError(f"{where}: unknown key {key!r}" + close)
        if not isinstance(item.get("metadata") or {}, Mapping):
            raise DataError(f"{where}: 'metadata' must be an object, got {item['metadata']!r}")
        known = {key: item[key] for key in KEYS if key in item and (item[key] is not None or key == "expected")}
        return replace(Golden(**known), where=where)
    if isinstance(item, Sequence) and not isinstance(item, str) and 1 <= len(item) <= 3:
        return replace(Golden(*item), where=where)
    raise DataError(f"{where}: {item!r} is no example; write (response, label, expected)")


def _same(found: float | None, expected: object) -> bool:
    return (
        found is not None
        and isinstance(expected, int | float)
        and math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    )


def _told(score: Score) -> str:
    return f"scored {score.value}" if score.status == "scored" else f"{score.status} ({score.reason})"
