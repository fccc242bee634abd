"""The rewards of a run: which one scores a sample, decided from flags and data before anything starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slimrl.config import RolloutConfig
from slimrl.config.sft import is_sft
from slimrl.errors import PluginError
from slimrl.registry.resolve import Registry, Resolved
from slimrl.target import absolute

RM_TYPE = "rm_type"


@dataclass(frozen=True)
class SetReference:
    """What an evaluation set says of its reward; it goes before everything else for the set's samples."""

    name: str
    reward: str | None = None
    """None: as in training."""
    reward_key: str | None = None
    """None: as in training."""
    group: bool | None = None
    """Whether its reward, named by path, is called with a whole group; None: as in training."""


@dataclass(frozen=True)
class RewardReferences:
    """Which rewards may be called, as references that mean the same in every process."""

    mix: tuple[tuple[str, float], ...] = ()
    """Reference and weight of what scores a sample; one of weight 1, or a weighted mix. May be empty where every
    sample names its own reward."""
    obeys_metadata: bool = True
    """Whether a sample's metadata.rm_type goes before the mix: as in slime, unless a reward is named by path."""
    routed: tuple[str, ...] = ()
    """The names that the samples' metadata.rm_type say."""
    reward_key: str | None = None
    """Which component of a reward that returns a mapping is trained on."""
    group: bool = False
    """Whether rewards named by path are called with a whole group (--group-rm)."""
    sets: tuple[SetReference, ...] = ()
    """Evaluation sets with a reward or a key of their own."""
    is_required: bool = True
    """Whether every sample has to have a reward; else one that nothing scores is worth 0."""

    @classmethod
    def one(cls, reference: str, *, reward_key: str | None = None, group: bool = False) -> RewardReferences:
        """A single reward that scores every sample."""
        return cls(((absolute(reference), 1.0),), obeys_metadata=False, reward_key=reward_key, group=group)

    @classmethod
    def from_config(
        cls,
        rollout: RolloutConfig,
        rm_types: Sequence[str] = (),
        sets: Sequence[SetReference] = (),
        *,
        is_required: bool = True,
    ) -> RewardReferences:
        """--custom-rm-path, else the mix of --reward, else what a row names (`rm_types`), else --rm-type.

        None of them where a reward is not required.
        """
        name = (rollout.rm_type or "").strip()
        if rollout.custom_rm_path:
            mix: tuple[tuple[str, float], ...] = ((absolute(rollout.custom_rm_path), 1.0),)
        elif rollout.reward:
            mix = read_mix(rollout.reward)
        else:
            mix = ((absolute(name), 1.0),) if name else ()
            if not mix and not rm_types and is_required and not is_sft(rollout):
                raise PluginError(
                    "no reward: give --rm-type NAME or --custom-rm-path REFERENCE, a mix with --reward NAME=WEIGHT, "
                    "or rows whose metadata name one (rm_type)"
                )
        obeys_metadata = not (rollout.custom_rm_path or rollout.reward)
        return cls(
            mix=mix,
            obeys_metadata=obeys_metadata,
            routed=tuple(rm_types) if obeys_metadata else (),
            reward_key=rollout.reward_key,
            group=rollout.group_rm,
            sets=tuple(replace(own, reward=own.reward and absolute(own.reward)) for own in sets),
            is_required=is_required,
        )


@dataclass(frozen=True)
class Component:
    """One reward of a mix."""

    name: str
    """What metrics call it."""
    weight: float
    resolved: Resolved


@dataclass(frozen=True)
class RewardTable:
    """The resolved rewards, and which of them scores which sample."""

    default: tuple[Component, ...]
    routed: Mapping[str, Component] = field(default_factory=dict)
    """By the name that metadata.rm_type says."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Names in metadata.rm_type that cannot be resolved, and what is to be said of each."""
    obeys_metadata: bool = True
    reward_key: str | None = None
    sets: Mapping[str, Component] = field(default_factory=dict)
    """The reward of an evaluation set that has its own, by the set's name (`Group.source`)."""
    set_keys: Mapping[str, str] = field(default_factory=dict)
    """The reward key of an evaluation set that has its own."""
    is_required: bool = True
    """Whether every sample has to have a reward."""

    def components(self) -> Iterator[Component]:
        """Every component, those of samples' own names and of evaluation sets too."""
        yield from self.default
        yield from self.routed.values()
        yield from self.sets.values()

    def key_of(self, source: str) -> str | None:
        """Which component of a mapping is trained on, or looked at in an evaluation set."""
        return self.set_keys.get(source, self.reward_key)

    def choose(self, metadata: object, source: str = "") -> tuple[Component, ...]:
        """What scores a sample of this metadata, nothing where none is required.

        PluginError when nothing does or nobody offers what it names.
        `source` is the evaluation set it is from.
        """
        if source in self.sets:
            return (self.sets[source],)
        named = _rm_type(metadata) if self.obeys_metadata else ""
        if not named:
            if not self.default and self.is_required:
                raise PluginError("no reward: metadata names none (rm_type), and neither does a flag (--rm-type)")
            return self.default
        if named in self.routed:
            return (self.routed[named],)
        raise PluginError(self.unknown.get(named) or f"there is no reward {named!r} (metadata.{RM_TYPE})")


def read_mix(words: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """References and weights out of `REFERENCE=WEIGHT`, which may leave the weight out; PluginError with all problems.

    The weight is what follows the last '=': a reference may hold one, and ':' and '/' too.
    """
    mix: list[tuple[str, float]] = []
    problems: list[str] = []
    for word in words:
        before, equals, after = word.rpartition("=")
        reference, weight = (before, _weight(after)) if equals else (word, 1.0)
        reference = absolute(reference.strip())
        if not reference or weight is None:
            problems.append(f"--reward takes REWARD=WEIGHT, the weight a finite number; got {word!r}")
        elif reference in [other for other, _ in mix]:
            problems.append(f"--reward names {reference!r} twice; add up its weights")
        else:
            mix.append((reference, weight))
    if problems:
        raise PluginError(problems)
    return tuple(mix)


def _weight(word: str) -> float | None:
    try:
        weight = float(word)
    except ValueError:
        return None
    return weight if math.isfinite(weight) else None


def _rm_type(metadata: object) -> str:
    # slime: metadata that is no dict counts as an empty one, and so does an rm_type that is null or blank
    named = metadata.get(RM_TYPE) if isinstance(metadata, Mapping) else None
    return str(named).strip() if named else ""


def rm_types(metadata: object) -> tuple[str, ...]:
    """The name that a row's metadata gives, if it gives one: what `RewardReferences.routed` is collected from."""
    named = _rm_type(metadata)
    return (named,) if named else ()


def resolve_rewards(registry: Registry, references: RewardReferences) -> RewardTable:
    """Resolve every reward; PluginError with all problems of the mix.

    A name that only samples say is not fatal here: it is in `RewardTable.unknown` with its message.
    """
    problems: list[str] = []
    mixed: list[tuple[float, Resolved]] = []
    for reference, weight in references.mix:
        try:
            mixed.append((weight, registry.resolve("reward", reference, group=references.group)))
        except PluginError as error:
            problems += error.problems
    sets: dict[str, Component] = {}
    for own in references.sets:
        if own.reward is None:
            continue
        try:
            group = references.group if own.group is None else own.group
            resolved = registry.resolve("reward", own.reward, group=group)
        except PluginError as error:
            problems += [f"evaluation set {own.name!r}: {problem}" for problem in error.problems]
        else:
            sets[own.name] = Component(resolved.name, 1.0, resolved)
    if problems:
        raise PluginError(problems)
    routed: dict[str, Component] = {}
    unknown: dict[str, str] = {}
    for name in references.routed if references.obeys_metadata else ():
        try:
            routed[name] = Component(name, 1.0, registry.resolve("reward", name, group=references.group))
        except PluginError as error:
            unknown[name] = f"metadata.{RM_TYPE}: {error}"
    times = Counter(resolved.name for _, resolved in mixed)
    default = tuple(Component(r.name if times[r.name] == 1 else r.reference, weight, r) for weight, r in mixed)
    keys = {own.name: own.reward_key for own in references.sets if own.reward_key is not None}
    return RewardTable(
        *(default, routed, unknown, references.obeys_metadata, references.reward_key, sets, keys),
        is_required=references.is_required,
    )
