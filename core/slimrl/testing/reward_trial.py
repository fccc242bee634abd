"""One reward on trial: scored as a run scores it, and looked at from inside two other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

from slimrl.config import RolloutConfig
from slimrl.registry import Options, Registry, Resolved, RewardReferences, resolve_rewards
from slimrl.scoring import Scorer, ScoringSettings
from slimrl.scoring.settings import DEFAULT_TIMEOUT_S
from slimrl.testing.golden import Golden
from slimrl.testing.malformed import malformed
from slimrl.testing.question import Answer, Question, ask
from slimrl.traits import RewardTraits
from slimrl.types import Group, Sample, Score

USUAL = (
    Golden("3 + 4 is 7, so the answer is \\boxed{7}.", "7"),
    Golden("Answer: 7", "7"),
    Golden("I do not know.", "7"),
)
"""What a reward is tried on where its author gives no examples."""
START_TIMEOUT_S = ScoringSettings.start_timeout_s
"""Imports and the factory have as long as in a run."""
QUICK_S = 1.0
"""A judge that cannot be reached would be asked again and again."""
PATIENCE_S = 15.0
"""A sample may take as long as the reward says, but no longer than this unless its author says so here."""
MOST_INSIDE = 50
"""So many examples are looked at from inside; all of them are scored."""


@dataclass
class RewardTrial:
    """A resolved reward and what was seen of it; each look happens once, when a check first needs it."""

    registry: Registry
    reference: str
    options: Options
    examples: Sequence[Golden] = ()
    """The author's; may be empty."""
    reward_key: str | None = None
    is_group: bool = False
    timeout_s: float | None = None

    @cached_property
    def resolved(self) -> Resolved:
        """The reward; PluginError."""
        return self.registry.resolve("reward", self.reference, group=self.is_group)

    @cached_property
    def golden(self) -> Sequence[Golden]:
        """The author's examples, or usual ones."""
        return self.examples or USUAL

    @cached_property
    def malformed(self) -> dict[str, list[Sample]]:
        """Odd samples by check."""
        usual = self.golden[0].sample(0)
        return {name: samples for name, (_, samples) in malformed(usual).items()}

    @cached_property
    def golden_scores(self) -> list[Score]:
        """The outcome of each example."""
        return self._scores([example.sample(place) for place, example in enumerate(self.golden)])

    @cached_property
    def malformed_scores(self) -> dict[str, list[Score]]:
        """The outcomes of odd samples by check."""
        scores = iter(self._scores([sample for samples in self.malformed.values() for sample in samples]))
        return {name: [next(scores) for _ in samples] for name, samples in self.malformed.items()}

    @cached_property
    def inside(self) -> Answer:
        """What a process saw that scored the examples which have an outcome in time."""
        return self._look_inside(1)

    @cached_property
    def inside_again(self) -> Answer:
        """What another process saw, with another hash seed."""
        return self._look_inside(2)

    def _look_inside(self, hash_seed: int) -> Answer:
        samples = [
            example.sample(place)
            for place, (example, score) in enumerate(zip(self.golden, self.golden_scores, strict=True))
            if score.status in ("scored", "abstained") or (score.status == "error" and score.seconds < QUICK_S)
        ][:MOST_INSIDE]
        timeout_s = START_TIMEOUT_S + 2 * self.deadline_s * max(1, len(samples))
        return self._ask(samples, hash_seed, timeout_s)

    @cached_property
    def made(self) -> Answer:
        """What a fresh process saw of the reward itself, before it scored anything."""
        return self._ask([], 0, START_TIMEOUT_S)

    @property
    def traits(self) -> RewardTraits:
        """What the reward says of itself."""
        row = self.made.one("traits")
        return RewardTraits(**row["traits"]) if row else RewardTraits()

    @property
    def is_async(self) -> bool:
        """Whether calling it gives an awaitable."""
        row = self.made.one("is_async")
        return bool(row and row["is_async"])

    @property
    def deadline_s(self) -> float:
        """What one sample may take."""
        return self.timeout_s or min(self.traits.timeout_s or DEFAULT_TIMEOUT_S, PATIENCE_S)

    @cached_property
    def timed_options(self) -> Options:
        """The options with that deadline as --rm-timeout: a reward may read it, and say why it is late."""
        rollout = replace(self.options[RolloutConfig], rm_timeout=self.deadline_s)
        return Options([*(one for kind, one in self.options.items() if kind is not RolloutConfig), rollout])

    def _ask(self, samples: list[Sample], hash_seed: int, timeout_s: float) -> Answer:
        # of whether it can be made, the deadline is not known before the answer
        question = Question.about(self.resolved, self.timed_options if samples else self.options, samples)
        return ask(question, timeout_s=timeout_s, hash_seed=hash_seed)

    def _scores(self, samples: Sequence[Sample]) -> list[Score]:
        references = RewardReferences.one(self.reference, reward_key=self.reward_key, group=self.is_group)
        table = resolve_rewards(self.registry, references)
        settings = ScoringSettings(num_workers=2, timeout_s=self.deadline_s, cache_size=0, value_required=False)
        groups = [Group(place, [deepcopy(sample)]) for place, sample in enumerate(samples)]

        async def go() -> None:
            async with Scorer(table, self.timed_options, settings) as scorer:
                await asyncio.gather(*(scorer.score(group) for group in groups))

        asyncio.run(go())
        return [sample.score for group in groups for sample in group if sample.score is not None]
