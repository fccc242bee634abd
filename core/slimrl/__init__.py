"""slimrl: rollout and reward SDK for reinforcement learning of language models."""

from __future__ import annotations

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
    Tracker,
)
from slimrl.traits import RewardTraits, continues_samples, reward_traits
from slimrl.types import (
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

__version__ = "0.1.0"

__all__ = [
    "Advantage",
    "BufferFilter",
    "Completion",
    "DynamicFilter",
    "EngineClient",
    "Factory",
    "Generate",
    "Group",
    "Message",
    "PluginOptions",
    "Prompt",
    "Reward",
    "RewardError",
    "RewardTraits",
    "RewardValue",
    "Sample",
    "SamplingParams",
    "Score",
    "SlimrlError",
    "Status",
    "Tracker",
    "TrainBatch",
    "UsageError",
    "Verdict",
    "__version__",
    "continues_samples",
    "hookimpl",
    "last_boxed",
    "reward_traits",
]
