"""TRL's reward functions, `(prompts, completions, **columns)`, as rewards of ours.

TRL calls them by keyword with one list entry a sample: prompts, completions, completion_ids and a list for every
column of the data set. They return one number a sample, or None where a function has nothing to say of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from slimrl.errors import RewardError
from slimrl.types import Sample

LABEL_COLUMNS: Final = ("label", "ground_truth", "solution", "answer", "target", "reference")
"""Columns that are the sample's label where its metadata has no such key."""

OWN_COLUMNS: Final = frozenset({"prompts", "completions", "completion_ids", "prompt", "completion"})

# What TRL's trainer passes beside the data. There is no trainer here: logging goes nowhere, and a function that looks
# into the trainer's state fails with its own words instead of seeing a step that never moves.
TRAINER: Final = MappingProxyType(
    {
        "trainer_state": None,
        "environments": None,
        "log_extra": lambda *args, **kwargs: None,
        "log_metric": lambda *args, **kwargs: None,
    }
)


def is_trl(signature: inspect.Signature) -> bool:
    """Whether a function has TRL's shape: it takes `completions` by keyword, or `prompts` and further keywords."""
    by_keyword = {p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return "completions" in by_keyword or ("prompts" in by_keyword and takes_any)


def bind(function: Callable[..., Any], signature: inspect.Signature, is_async: bool, group: bool) -> Any:  # a reward
    """The function as a reward of one sample (it gets lists of one) or, with `group`, of a whole group."""
    wanted = _Wanted(signature)

    async def of_group_async(samples: Sequence[Sample]) -> list[Any]:
        return _entries(await function(**wanted.arguments(samples)), len(samples))

    async def of_one_async(sample: Sample) -> Any:
        return (await of_group_async([sample]))[0]

    def of_group(samples: Sequence[Sample]) -> list[Any]:
        return _entries(function(**wanted.arguments(samples)), len(samples))

    def of_one(sample: Sample) -> Any:
        return of_group([sample])[0]

    if group:
        return of_group_async if is_async else of_group
    return of_one_async if is_async else of_one


class _Wanted:
    """Which keywords a function takes."""

    def __init__(self, signature: inspect.Signature) -> None:
        parameters = signature.parameters.values()
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.names = {p.name for p in named}
        self.required = {p.name for p in named if p.default is p.empty}

    def arguments(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The keywords of one call; RewardError when a column that it needs is in no sample."""
        columns = _columns(samples)
        missing = self.required - OWN_COLUMNS - set(TRAINER) - set(columns)
        if missing:
            have = ", ".join(columns) or "none"
            raise RewardError(
                f"the reward takes {', '.join(sorted(missing))}, which the samples' metadata lacks (columns: {have})"
            )
        offered = {
            "prompts": [sample.prompt for sample in samples],
            "completions": [_completion(sample) for sample in samples],
            "completion_ids": [list(sample.tokens) for sample in samples],
            **columns,
        }
        chosen = {name: value for name, value in offered.items() if self.takes_any or name in self.names}
        return chosen | {name: value for name, value in TRAINER.items() if name in self.names and name not in columns}


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    metadata = [sample.metadata if isinstance(sample.metadata, Mapping) else {} for sample in samples]
    keys = dict.fromkeys(str(key) for entry in metadata for key in entry)
    columns = {key: [entry.get(key) for entry in metadata] for key in keys if key not in OWN_COLUMNS}
    if any(sample.label is not None for sample in samples):
        for name in LABEL_COLUMNS:
            columns.setdefault(name, [sample.label for sample in samples])
    return columns


def _completion(sample: Sample) -> Any:  # text, or messages where the prompt is a conversation
    if isinstance(sample.prompt, str):
        return sample.response
    return [{"role": "assistant", "content": sample.response}]


def _entries(returned: Any, count: int) -> list[Any]:  # Any: whatever a user's function returns
    to_list = getattr(returned, "tolist", None)  # an array or a tensor
    if callable(to_list):
        returned = to_list()
    if not isinstance(returned, list | tuple):
        raise RewardError(
            f"the reward has TRL's shape (completions, ...) and returned {type(returned).__name__}; "
            f"it returns a list with one number (or None) a sample"
        )
    if len(returned) != count:
        raise RewardError(f"the reward returned {len(returned)} scores for {count} samples")
    return list(returned)
