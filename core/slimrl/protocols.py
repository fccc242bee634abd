"""The seams, typed. Core knows these, never an implementation; a plugin implements one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from slimrl.types import (
    AdvantageInput,
    Advantages,
    Completion,
    Group,
    Sample,
    SamplingParams,
    Score,
    TrainBatch,
    TrainReport,
    Verdict,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

T = TypeVar("T")

RewardValue = float | Mapping[str, Any] | Score | None
"""What a reward may return; None abstains."""


class PluginOptions(Protocol):
    """The parsed option dataclasses of all plugins; a factory takes its own by type."""

    def __getitem__(self, kind: type[T], /) -> T: ...


Factory = Callable[[PluginOptions], T]
"""What a hook offers under a name: called once at start-up, with the options, for the object itself."""


class Reward(Protocol):
    """Score one finished sample: a number, named components, a Score, or None to abstain. May be async."""

    def __call__(self, sample: Sample, /) -> RewardValue | Awaitable[RewardValue]: ...


class Generate(Protocol):
    """Fill one sample by talking to the engine; appends tokens and sets status, or raises (the sample FAILED).

    Returns the sample, or a fan-out: a list of samples that are one rollout of the sample's group; the first one is of
    the prompt that was given, sample ids are theirs by place in the list.
    """

    def __call__(
        self, sample: Sample, sampling: SamplingParams, engine: EngineClient, /
    ) -> Awaitable[Sample | Sequence[Sample]]: ...


class DynamicFilter(Protocol):
    """Say whether a finished, scored group is worth training on."""

    def __call__(self, group: Group, /) -> Verdict: ...


class BufferFilter(Protocol):
    """Take up to `count` groups out of the buffer (remove them from it) for the next rollout."""

    def __call__(self, buffer: list[Group], count: int, /) -> list[Group]: ...


class Advantage(Protocol):
    """Advantages of one batch from its rewards and groups.

    `rewards` and `group_ids` have one entry a sample. The result has one entry a sample (the same advantage for
    all its tokens).
    """

    def __call__(self, rewards: NDArray[np.float32], group_ids: NDArray[np.int64], /) -> NDArray[np.float32]: ...


class TokenAdvantage(Protocol):
    """Advantages of one batch where they depend on more than rewards: log-probs, values, the order of tokens.

    The result has one entry a sample or one a trained token.
    """

    def __call__(self, rollout: AdvantageInput, /) -> NDArray[np.float32] | Advantages: ...


class DataSource(Protocol):
    """An endless stream of groups of pending samples with a position that can be saved."""

    def take(self, count: int) -> list[Group]:
        """The next `count` groups, each of n_samples_per_prompt pending samples."""
        ...

    def state(self) -> dict[str, Any]:
        """The position as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a position that `state` returned."""
        ...


class EngineClient(Protocol):
    """What a generator may ask of an engine."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """One response; raises EngineError when the engine refuses it or stays unreachable."""
        ...


class Supply(Protocol):
    """Where a function of the user's gets groups from, and gives them back to."""

    def take(self, count: int) -> list[Group]:
        """The next `count` groups, those that wait in the buffer first; some may be begun or finished already."""
        ...

    def put_back(self, group: Group) -> None:
        """Keep a group for a later batch; a checkpoint has it too."""
        ...


class Rollout(Supply, Protocol):
    """What a rollout function (`--rollout-function-path`) works with."""

    @property
    def step(self) -> int:
        """The step that the batch is for."""
        ...

    @property
    def wanted(self) -> int:
        """Groups in a batch: as many are to be returned."""
        ...

    @property
    def sampling(self) -> SamplingParams:
        """How the run samples a response."""
        ...

    @property
    def engine(self) -> EngineClient:
        """What generates."""
        ...

    async def produce(self, group: Group) -> Group:
        """The group with every sample generated, seen by the sample hooks and scored; a finished one as it is."""
        ...

    def judge(self, group: Group) -> Verdict:
        """What the dynamic filter says of a finished group; it is the group's verdict from then on."""
        ...


class Evaluation(Protocol):
    """What an evaluation function (`--eval-function-path`) works with."""

    @property
    def step(self) -> int:
        """Steps that the weights have seen."""
        ...

    @property
    def names(self) -> list[str]:
        """The sets of --eval-prompt-data or --eval-config."""
        ...

    @property
    def engine(self) -> EngineClient:
        """What generates."""
        ...

    def groups(self, name: str) -> list[Group]:
        """Every prompt of a set with its pending samples, the same each time."""
        ...

    async def produce(self, name: str, group: Group) -> Group:
        """A group of a set with every sample generated as the set says, seen by the sample hooks and scored."""
        ...


class Trainer(Protocol):
    """The model that learns. `train.py` knows this and nothing of Megatron."""

    def load(self, checkpoint: Path | None) -> None:
        """Load weights, and from a checkpoint of ours also optimizer, schedule and random states."""
        ...

    def train(self, batch: TrainBatch) -> TrainReport:
        """All optimizer steps of one rollout; raises TrainError when a loss is not finite."""
        ...

    def publish(self, version: int) -> Mapping[str, float]:
        """Give the engine the current weights under a version; returns timing metrics."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load` reads into an existing, empty folder."""
        ...

    def save_hf(self, folder: Path) -> None:
        """Write the weights into an existing, empty folder, as transformers loads them."""
        ...


class WeightTransport(Protocol):
    """Carries named weights (HF names) from a trainer to the engines."""

    def publish(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Pause the engine, replace its weights, set the version, continue; raises EngineError on failure."""
        ...


class Tracker(Protocol):
    """Receives every step's metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...
