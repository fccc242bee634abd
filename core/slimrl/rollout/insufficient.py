"""A batch that cannot be filled within its budget: what is taken after all, and how that is told."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimrl.types import Group, Prompt, Verdict

MAX_PROMPTS = 3
"""Prompts that an error names."""
MAX_BEGINNING = 80


def fall_back(dropped: list[Group], missing: int, *, any_group: bool) -> list[Group]:
    """Take up to `missing` groups back out of the dropped ones: those whose filter allows it, then the most varied.

    Without `any_group` only the former. A group without a score is never taken: it teaches nothing.
    """
    candidates = [
        group
        for group in dropped
        if any(sample.value is not None for sample in group) and (any_group or _is_allowed(group))
    ]
    candidates.sort(key=lambda group: (not _is_allowed(group), -_spread(group), group.group_id))
    taken = candidates[:missing]
    for group in taken:
        reason = (group.verdict.reason if group.verdict else "") or "unnamed"
        group.verdict = Verdict(keep=True, reason=f"insufficient_{reason}")
    chosen = {id(group) for group in taken}
    dropped[:] = [group for group in dropped if id(group) not in chosen]
    return taken


def is_fallback(group: Group) -> bool:
    """Whether a kept group was taken because there were too few."""
    return group.verdict is not None and group.verdict.keep and group.verdict.reason.startswith("insufficient_")


def why_not_filled(kept: int, wanted: int, dropped: Sequence[Group]) -> str:
    """What an error says of a batch that was not filled: reasons, failures, and prompts that do not vary."""
    reasons = Counter(g.verdict.reason or "no reason given" for g in dropped if g.verdict)
    said = ", ".join(f"{reason} {count}x" for reason, count in reasons.most_common())
    failures = Counter(s.reason for g in dropped for s in g if s.reason)
    failures += Counter(s.score.reason for g in dropped for s in g if s.score and s.score.reason)
    first = "".join(f"; {reason} ({count}x)" for reason, count in failures.most_common(2))
    flat = NeverVaried()
    flat.observe(dropped)
    prompts = "; ".join(str(prompt) for prompt in flat.prompts[:MAX_PROMPTS])
    return (
        f"{kept + len(dropped)} groups were finished but only {kept} of {wanted} kept (dropped: {said}{first}); "
        + (f"prompts whose samples all earned the same: {prompts}; " if prompts else "")
        + "use easier or harder prompts, another filter, --on-insufficient fallback, or raise --max-sampling-rounds"
    )


@dataclass
class FlatPrompt:
    """A prompt of which every group so far earned one and the same reward in all samples."""

    beginning: str
    seen: int
    mean: float
    """The reward of the last group."""

    def told(self) -> dict[str, Any]:  # Any: JSON values
        """As an entry of an event."""
        return {"prompt": self.beginning, "seen": self.seen, "reward": self.mean}

    def __str__(self) -> str:
        return f"{self.beginning!r} ({self.seen}x, reward {self.mean:g})"


class NeverVaried:
    """The prompts whose groups never varied in reward, over a whole run."""

    def __init__(self) -> None:
        self._flat: dict[str, FlatPrompt] = {}
        self._varied: set[str] = set()

    @property
    def prompts(self) -> list[FlatPrompt]:
        """Those seen most often first."""
        return sorted(self._flat.values(), key=lambda prompt: -prompt.seen)

    def observe(self, groups: Iterable[Group]) -> None:
        """Take note of judged groups; a group with fewer than two scores says nothing."""
        for group in groups:
            values = [sample.value for sample in group if sample.value is not None]
            if len(values) < 2:
                continue
            key = _key(group.samples[0].prompt)
            if max(values) - min(values) > 0:
                self._varied.add(key)
                self._flat.pop(key, None)
            elif key not in self._varied:
                found = self._flat.setdefault(key, FlatPrompt(_beginning(group.samples[0].prompt), 0, 0.0))
                found.seen, found.mean = found.seen + 1, values[0]

    def state(self) -> dict[str, Any]:
        """Everything as JSON values."""
        flat = {key: [one.beginning, one.seen, one.mean] for key, one in self._flat.items()}
        return {"flat": flat, "varied": sorted(self._varied)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self._flat = {key: FlatPrompt(*values) for key, values in state["flat"].items()}
        self._varied = set(state["varied"])


def _is_allowed(group: Group) -> bool:
    return group.verdict is not None and group.verdict.keep_when_insufficient


def _spread(group: Group) -> float:
    return statistics.pstdev(sample.value for sample in group if sample.value is not None)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(list(prompt), ensure_ascii=False, default=str)


def _key(prompt: Prompt) -> str:
    return hashlib.blake2b(_text(prompt).encode(errors="replace"), digest_size=8).hexdigest()


def _beginning(prompt: Prompt) -> str:
    if not isinstance(prompt, str) and prompt:
        prompt = str(prompt[-1].get("content", ""))  # a chat begins with what all prompts share
    text = " ".join(_text(prompt).split())
    return text if len(text) <= MAX_BEGINNING else text[: MAX_BEGINNING - 3] + "..."
