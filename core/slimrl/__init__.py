"""slimrl: rollout and reward SDK for reinforcement learning of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimrl.boxed import last_boxed
from slimrl.errors import RewardError, SlimrlError, UsageError
from slimrl.hookspecs import hookimpl
from slimrl.protocols import (
    Advantage,
    BufferFilter,
    DynamicFilter,
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Reward,
    RewardValue,
    TokenAdvantage,
    Tracker,
)
from slimrl.target import absolute as absolute_reference
from slimrl.target import load_target
from slimrl.traits import AdvantageTraits, RewardTraits, advantage_traits, continues_samples, reward_traits
from slimrl.types import (
    AdvantageInput,
    Advantages,
    Completion,
    Group,
    Message,
    Prompt,
    Sample,
    SamplingParams,
    Score,
    Status,
    TrainBatch,
    Verdict,
)

if TYPE_CHECKING:
    from slimrl.endpoint import (
        ChatTemplate,
        Endpoint,
        PlainTemplate,
        Segment,
        Session,
        ToolCall,
        next_reply,
        split_tool_calls,
    )
else:
    LATER = (
        "ChatTemplate",
        "Endpoint",
        "PlainTemplate",
        "Segment",
        "Session",
        "ToolCall",
        "next_reply",
        "split_tool_calls",
    )

    def __getattr__(name: str) -> object:
        """What few plugins need is imported when one asks for it: every reward's worker imports this module."""
        if name in LATER:
            import slimrl.endpoint

            return getattr(slimrl.endpoint, name)
        raise AttributeError(f"module 'slimrl' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Advantage",
    "AdvantageInput",
    "AdvantageTraits",
    "Advantages",
    "BufferFilter",
    "ChatTemplate",
    "Completion",
    "DynamicFilter",
    "Endpoint",
    "EngineClient",
    "Factory",
    "Generate",
    "Group",
    "Message",
    "PlainTemplate",
    "PluginOptions",
    "Prompt",
    "Reward",
    "RewardError",
    "RewardTraits",
    "RewardValue",
    "Sample",
    "SamplingParams",
    "Score",
    "Segment",
    "Session",
    "SlimrlError",
    "Status",
    "TokenAdvantage",
    "ToolCall",
    "Tracker",
    "TrainBatch",
    "UsageError",
    "Verdict",
    "__version__",
    "absolute_reference",
    "advantage_traits",
    "continues_samples",
    "hookimpl",
    "last_boxed",
    "load_target",
    "next_reply",
    "reward_traits",
    "split_tool_calls",
]
