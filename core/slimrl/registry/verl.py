"""verl's reward functions, `(data_source, solution_str, ground_truth, extra_info=None)`, as rewards of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from slimrl.errors import PluginError
from slimrl.protocols import Reward, RewardValue
from slimrl.types import Sample

KEYWORDS: Final = ("data_source", "solution_str", "ground_truth", "extra_info")
REWARD_KEY: Final = "score"
"""The component that is trained on when such a function returns a mapping."""


def is_verl(signature: inspect.Signature) -> bool:
    """Whether a function has verl's shape: it takes `solution_str` by keyword."""
    found = signature.parameters.get("solution_str")
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def bind(function: Callable[..., Any], signature: inspect.Signature, is_async: bool, reference: str) -> Reward:
    """The function, called by keyword; PluginError when it needs what only verl could give."""
    parameters = signature.parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needs = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = [name for name in needs if name not in KEYWORDS]
    if unknown:
        raise PluginError(
            f"reward {reference!r} has verl's shape and needs {', '.join(unknown)} as well; "
            f"it is called with {', '.join(KEYWORDS)}"
        )
    names = KEYWORDS if takes_any else tuple(name for name in KEYWORDS if name in signature.parameters)

    def arguments(sample: Sample) -> dict[str, Any]:
        metadata = sample.metadata if isinstance(sample.metadata, Mapping) else {}
        values = {
            "data_source": metadata.get("data_source") or "",
            "solution_str": sample.response,
            "ground_truth": sample.label,
            "extra_info": metadata,
        }
        return {name: values[name] for name in names}

    async def reward_async(sample: Sample) -> RewardValue:
        value: RewardValue = await function(**arguments(sample))
        return value

    def reward(sample: Sample) -> RewardValue:
        value: RewardValue = function(**arguments(sample))
        return value

    return reward_async if is_async else reward
