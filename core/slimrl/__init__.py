"""slimrl: rollout and reward SDK for reinforcement learning of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slimrl.boxed import last_boxed
from slimrl.errors import RewardError, SlimrlError, UsageError
from slimrl.hookspecs import hookimpl
from slimrl.protocols import (
    Advantage,
    BufferFilter,
    DataSource,
    DynamicFilter,
    EngineClient,
    Evaluation,
    Factory,
    Generate,
    PluginOptions,
    Reward,
    RewardValue,
    Rollout,
    Supply,
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
    from slimrl.algorithms.gae import discounted_returns, gae
    from slimrl.algorithms.kl import kl_estimate
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
    LATER = {
        "ChatTemplate": "slimrl.endpoint",
        "Endpoint": "slimrl.endpoint",
        "PlainTemplate": "slimrl.endpoint",
        "Segment": "slimrl.endpoint",
        "Session": "slimrl.endpoint",
        "ToolCall": "slimrl.endpoint",
        "discounted_returns": "slimrl.algorithms.gae",
        "gae": "slimrl.algorithms.gae",
        "kl_estimate": "slimrl.algorithms.kl",
        "next_reply": "slimrl.endpoint",
        "split_tool_calls": "slimrl.endpoint",
    }

    def __getattr__(name: str) -> object:
        """What few plugins need is imported when one asks for it: every reward's worker imports this module."""
        if name in LATER:
            import importlib

            return getattr(importlib.import_module(LATER[name]), name)
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
    "DataSource",
    "DynamicFilter",
    "Endpoint",
    "EngineClient",
    "Evaluation",
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
    "Rollout",
    "Sample",
    "SamplingParams",
    "Score",
    "Segment",
    "Session",
    "SlimrlError",
    "Status",
    "Supply",
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
    "discounted_returns",
    "gae",
    "hookimpl",
    "kl_estimate",
    "last_boxed",
    "load_target",
    "next_reply",
    "reward_traits",
    "split_tool_calls",
]
