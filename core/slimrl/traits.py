"""What a reward or a generator says of itself, so that it is served better; saying nothing is always safe."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., object])

ATTRIBUTE: Final = "__slimrl_traits__"
CONTINUES: Final = "__slimrl_continues__"
EVALUATION: Final = "__slimrl_in_evaluation__"
ADVANTAGE: Final = "__slimrl_advantage_traits__"

PolicyLossName = Literal["clipped", "gspo", "cispo"]


@dataclass(frozen=True, slots=True)
class RewardTraits:
    """A reward's promises and needs."""

    pure: bool = False
    """The same prompt, response, label and metadata always give the same score: it may be remembered."""
    inline: bool = False
    """Time linear in the text, well under a millisecond for a short one: it may run where the caller waits."""
    group: bool = False
    """It is called with the samples of a group at once and returns one outcome for each, in order."""
    timeout_s: float | None = None
    """The deadline it needs where --rm-timeout says nothing: a remote judge takes longer than a comparison."""
    key: str | None = None
    """The component that is trained on where --reward-key says nothing."""


def reward_traits(
    *,
    pure: bool = False,
    inline: bool = False,
    group: bool = False,
    timeout_s: float | None = None,
    key: str | None = None,
) -> Callable[[F], F]:
    """Decorate a reward function with its traits (see `RewardTraits`)."""
    traits = RewardTraits(pure, inline, group, timeout_s, key)

    def decorate(function: F) -> F:
        setattr(function, ATTRIBUTE, traits)
        return function

    return decorate


def continues_samples(generate: F) -> F:
    """Decorate a generator that goes on from `sample.tokens` where a partial rollout cut a sample off.

    Without it a sample that was cut off starts over.
    """
    setattr(generate, CONTINUES, True)
    return generate


def does_continue(generate: object) -> bool:
    """Whether a generator says that it goes on from the tokens of a sample that was cut off."""
    return getattr(generate, CONTINUES, False) is True


def for_evaluation(generate: F, in_evaluation: F) -> F:
    """A generator, with another one in its place where it generates for an evaluation."""
    setattr(generate, EVALUATION, in_evaluation)
    return generate


def in_evaluation(generate: F) -> F:
    """The generator as an evaluation calls it."""
    found: F = getattr(generate, EVALUATION, generate)
    return found


def traits_of(reward: object) -> RewardTraits:
    """The traits a reward was decorated with; the cautious ones for any other."""
    found = getattr(reward, ATTRIBUTE, None)
    return found if isinstance(found, RewardTraits) else RewardTraits()


@dataclass(frozen=True, slots=True)
class AdvantageTraits:
    """What an advantage estimator needs, and what of the run it decides."""

    compares_group: bool = True
    """A reward is compared with those of its group, so a group of one sample would train nothing."""
    heeds: frozenset[str] = frozenset()
    """Which of the estimators' settings it reads (`kl_coef`, `gamma`, ...); any other that is given is refused."""
    needs_values: bool = False
    """It takes a critic's value of every token."""
    needs_normalization: bool = False
    """It is meant to be used with --normalize-advantages."""
    policy_loss: PolicyLossName = "clipped"
    """The policy loss that goes with it."""
    divides_by_max_length: bool = False
    """A rollout's loss is the sum over its tokens over the longest response there may be, not over its own length."""


def advantage_traits(
    *,
    compares_group: bool = True,
    heeds: Collection[str] = (),
    needs_values: bool = False,
    needs_normalization: bool = False,
    policy_loss: PolicyLossName = "clipped",
    divides_by_max_length: bool = False,
) -> Callable[[F], F]:
    """Decorate an advantage estimator with its traits (see `AdvantageTraits`)."""
    traits = AdvantageTraits(
        compares_group, frozenset(heeds), needs_values, needs_normalization, policy_loss, divides_by_max_length
    )

    def decorate(function: F) -> F:
        setattr(function, ADVANTAGE, traits)
        return function

    return decorate


def advantage_traits_of(estimator: object) -> AdvantageTraits:
    """The traits an estimator was decorated with; the cautious ones for any other."""
    found = getattr(estimator, ADVANTAGE, None)
    return found if isinstance(found, AdvantageTraits) else AdvantageTraits(compares_group=False)
