"""The nouns that cross seams: samples, groups, scores, verdicts and the batch that is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Message = Mapping[str, Any]
"""One OpenAI-style chat message: {"role": ..., "content": ...}."""

Prompt = str | Sequence[Message]

ScoreStatus = Literal["scored", "abstained", "error", "timeout"]


class Status(StrEnum):
    """Where a sample's generation stands."""

    PENDING = "pending"
    COMPLETED = "completed"
    TRUNCATED = "truncated"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward said of one sample; a sample that could not be scored has no value, never a zero."""

    status: ScoreStatus
    value: float | None = None
    """The number that is trained on; None unless status is 'scored'."""
    reward: Any = None
    """What the reward returned (number, mapping or None): rewards are a user's, so any JSON value."""
    components: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    by: str = ""
    """Which reward the outcome came from; where a mix has none, the component that is to blame."""

    @classmethod
    def scored(cls, value: float, **kwargs: Any) -> Score:
        """A score with a value; keyword arguments are the other fields."""
        return cls(status="scored", value=float(value), **{"reward": value, **kwargs})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A dynamic filter's word on one group."""

    keep: bool
    reason: str = ""
    """Why a group is dropped, as a metric's suffix: `zero_std`, `too_long`."""
    keep_when_insufficient: bool = False
    """Of a dropped group: it is taken after all where a batch cannot be filled otherwise."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the engine samples one response, in the names of SGLang's HTTP API."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    sampling_seed: int | None = None
    skip_special_tokens: bool = True
    min_new_tokens: int = 0
    max_context_len: int | None = None
    """Prompt and response tokens of one sample together at most; not sent to the engine."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine returned for one request; the three sequences have one entry per output token."""

    tokens: list[int]
    log_probs: list[float]
    weight_versions: list[int]
    text: str
    finish_reason: Literal["stop", "length", "abort"]
    finish_message: str = ""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Sample:
    """One response to one prompt: tokens, log-probs, loss mask and weight versions always of one length."""

    group_id: int
    sample_id: int
    """Position in the endless stream of samples: group_id * n_samples_per_prompt + place in the group.

    The further samples of a fan-out have ids of their own, far above those.
    """
    rollout_id: int
    """The execution this sample came from; siblings of a fan-out share it and count as one in the loss."""
    prompt: Prompt
    prompt_tokens: list[int]
    label: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    tokens: list[int] = field(default_factory=list)
    """Response tokens only."""
    log_probs: list[float] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    """1 where the policy chose the token and it is trained on, else 0."""
    weight_versions: list[int] = field(default_factory=list)
    response: str = ""
    status: Status = Status.PENDING
    reason: str = ""
    """Why the sample failed or was aborted."""
    score: Score | None = None
    generate_seconds: float = 0.0
    failure: str = ""
    """What kind of failure it was, as a metric's suffix: `engine`, `timeout`, `value_error`; empty if none."""
    teacher_log_probs: list[float] = field(default_factory=list)
    """Of the response tokens, where a teacher behind an engine was asked for them (--use-opd); else empty."""

    def append(
        self,
        tokens: Sequence[int],
        log_probs: Sequence[float],
        weight_versions: Sequence[int],
        *,
        trainable: bool = True,
        text: str = "",
    ) -> None:
        """Append response tokens with everything that belongs to them; raises ValueError on unequal lengths."""
        if not len(tokens) == len(log_probs) == len(weight_versions):
            raise ValueError(
                f"sample {self.sample_id}: {len(tokens)} tokens, {len(log_probs)} log-probs and "
                f"{len(weight_versions)} weight versions; append them together"
            )
        self.tokens.extend(tokens)
        self.log_probs.extend(log_probs)
        self.weight_versions.extend(weight_versions)
        self.loss_mask.extend([int(trainable)] * len(tokens))
        self.response += text

    @property
    def value(self) -> float | None:
        """The reward that is trained on, or None if the sample could not be scored."""
        return None if self.score is None else self.score.value


@dataclass(slots=True)
class Group:
    """The samples of one prompt; normalisation and filters see whole groups."""

    group_id: int
    samples: list[Sample]
    verdict: Verdict | None = None
    source: str = ""
    """The data set the prompt came from."""

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """One rollout as packed arrays, sample after sample, in order of sample id; only scored samples are in it."""

    step: int
    tokens: NDArray[np.int32]
    """[all tokens] prompt then response of each sample."""
    prompt_lengths: NDArray[np.int32]
    """[samples]"""
    response_lengths: NDArray[np.int32]
    """[samples]"""
    loss_mask: NDArray[np.uint8]
    """[response tokens]"""
    log_probs: NDArray[np.float32]
    """[response tokens] of the engine's sampling distribution, natural log."""
    weight_versions: NDArray[np.int32]
    """[response tokens]"""
    rewards: NDArray[np.float32]
    """[samples]"""
    group_ids: NDArray[np.int64]
    """[samples]"""
    rollout_ids: NDArray[np.int64]
    """[samples]"""
    sample_ids: NDArray[np.int64]
    """[samples]"""
    advantages: NDArray[np.float32] | None = None
    """[samples] where a function of the user's made them of the rewards, in place of the estimator."""
    teacher_log_probs: NDArray[np.float32] | None = None
    """[response tokens] of a teacher behind an engine, natural log; None where there is none."""

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class AdvantageInput:
    """What an advantage estimator sees of one rollout: arrays of one entry a sample, or one a trained token.

    Trained tokens are those with loss mask 1, sample after sample; others, as a tool's, are in no array. Log-probs are
    natural logs; those that no setting of the run asks for are None.
    """

    rewards: NDArray[np.float32]
    """[samples]"""
    group_ids: NDArray[np.int64]
    """[samples]"""
    rollout_ids: NDArray[np.int64]
    """[samples] equal for the siblings of a fan-out, which are one rollout of the group."""
    num_tokens: NDArray[np.int64]
    """[samples] trained tokens."""
    rollout_log_probs: NDArray[np.float32]
    """[tokens] of the engine."""
    log_probs: NDArray[np.float32] | None = None
    """[tokens] of the policy before the rollout's first optimizer step."""
    ref_log_probs: NDArray[np.float32] | None = None
    """[tokens] of the reference model."""
    values: NDArray[np.float32] | None = None
    """[tokens] of the critic."""

    @property
    def sample_of_token(self) -> NDArray[np.int64]:
        """[tokens] which sample a token is of."""
        import numpy as np

        return np.repeat(np.arange(len(self.num_tokens)), self.num_tokens)


@dataclass(frozen=True, slots=True)
class Advantages:
    """What an estimator makes of it where it says more than one number a sample."""

    advantages: NDArray[np.float32]
    """[tokens] or [samples]"""
    returns: NDArray[np.float32] | None = None
    """[tokens] what the critic's values are trained towards."""


@dataclass(frozen=True, slots=True)
class LossTokens:
    """What a loss function of the user's sees: the trained tokens of some samples, each tensor [tokens].

    Log-probs are natural. Gradients flow through `log_probs` and `entropy`.
    """

    log_probs: Tensor
    """Of the policy as it is."""
    entropy: Tensor
    """Of the policy's next-token distribution, in nats."""
    old_log_probs: Tensor
    """Of the policy before the rollout's first optimizer step, or of the engine with --use-rollout-logprobs."""
    rollout_log_probs: Tensor
    """Of the engine."""
    ref_log_probs: Tensor | None
    """Of the reference model, with --use-kl-loss."""
    advantages: Tensor
    lengths: Tensor
    """[samples] how many of the tokens are each sample's, in order."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a trainer says of one batch: metrics by name and the advantage of each sample (its tokens' mean)."""

    metrics: Mapping[str, float]
    advantages: NDArray[np.float32]
    """[samples] in the batch's order."""
