"""Errors a user can cause. Each message names the thing, its value and the way out."""

from __future__ import annotations

from collections.abc import Sequence


class SlimrlError(Exception):
    """Base of every error that slimrl raises on purpose."""


class UsageError(SlimrlError):
    """The command, a flag, a file or a reference is wrong; the command exits with 2 before a process starts."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UsageError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class ConfigError(UsageError):
    """One or more flags or configuration keys are wrong; every broken rule is listed at once."""


class DataError(UsageError):
    """A prompt file is missing, malformed or lacks a key; names file, line and key."""


class PluginError(UsageError):
    """A reference to a reward, filter, generator or estimator cannot be resolved."""


class CheckpointError(UsageError):
    """A checkpoint is missing, incomplete or does not fit the model."""


class RewardError(SlimrlError):
    """A reward broke its contract: wrong count, not finite, wrong type."""


class EngineError(SlimrlError):
    """The inference engine refused a request or cannot be reached."""


class EngineUnreachableError(EngineError):
    """No connection to the engine lasted until the answer: it is dead, or the way to it is broken."""


class EngineFailingError(EngineError):
    """The engine answered with an error of its own (5xx) as often as it was asked."""


class RolloutError(SlimrlError):
    """A batch could not be filled."""


class EnginesLostError(RolloutError):
    """No engine is left to generate with."""


class TrainError(SlimrlError):
    """A training step failed; the run stops."""
