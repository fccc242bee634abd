"""The plugins of one run: resolved together, made once, and the same in every process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from slimrl.config import EvalConfig, GrpoConfig, RolloutConfig
from slimrl.config.sft import SFT
from slimrl.errors import PluginError
from slimrl.protocols import Advantage, BufferFilter, DynamicFilter, Generate, TokenAdvantage
from slimrl.registry.fingerprint import fingerprint
from slimrl.registry.kinds import RUN_HOOKS, Kind, RunHook
from slimrl.registry.options import Options
from slimrl.registry.resolve import Registry, Resolved, load
from slimrl.registry.rewards import RewardReferences, RewardTable, SetReference, resolve_rewards
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.selection import PluginSelection
from slimrl.target import absolute

T = TypeVar("T")


@dataclass(frozen=True)
class PluginReferences:
    """Which plugins a run uses, as references that mean the same in every process."""

    rewards: RewardReferences
    generator: str = "single_turn"
    buffer_filter: str = "pop_first"
    advantage: str = "grpo"
    dynamic_filter: str | None = None
    run_hooks: tuple[tuple[RunHook, str], ...] = ()
    """Functions of the run by kind; a kind may have several, in this order."""
    set_generators: tuple[tuple[str, str], ...] = ()
    """Name and generator of each evaluation set with one of its own."""
    trackers: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()
    """Folders that modules are also looked for in, after everything installed."""
    selection: PluginSelection = field(default_factory=PluginSelection)
    """Which installed plugins are loaded, here and in every other process."""

    @classmethod
    def from_config(
        cls,
        rollout: RolloutConfig,
        grpo: GrpoConfig,
        evaluation: EvalConfig | None = None,
        *,
        rm_types: Sequence[str] = (),
        sets: Sequence[SetReference] = (),
        set_generators: Mapping[str, str] | None = None,
        trackers: Sequence[str] = (),
    ) -> PluginReferences:
        """The references of a configuration and of its data: the rewards that rows name, and evaluation sets' own."""
        rewards = RewardReferences.from_config(rollout, rm_types, sets, is_required=not grpo.use_opd)
        dynamic_filter = rollout.dynamic_sampling_filter_path
        return cls(
            rewards=rewards,
            generator=absolute(rollout.custom_generate_function_path),
            buffer_filter=absolute(rollout.buffer_filter_path),
            advantage=absolute(grpo.advantage_estimator),
            dynamic_filter=None if dynamic_filter is None else absolute(dynamic_filter),
            run_hooks=tuple(_run_hooks(rollout, evaluation or EvalConfig(), grpo)),
            set_generators=tuple((name, absolute(found)) for name, found in (set_generators or {}).items()),
            trackers=tuple(dict.fromkeys(map(absolute, trackers))),
            search_path=(str(Path.cwd()),),
        )

    def by_kind(self) -> dict[Kind, str]:
        """The references that are set, rewards apart."""
        references: dict[Kind, str | None] = {
            "generator": self.generator,
            "dynamic_filter": self.dynamic_filter,
            "buffer_filter": self.buffer_filter,
            "advantage": self.advantage,
        }
        return {kind: reference for kind, reference in references.items() if reference is not None}


@dataclass(frozen=True)
class PluginSet:
    """Everything a run resolved. Each plugin is made when it is first asked for, once in a process."""

    references: PluginReferences
    options: Options
    rewards: RewardTable
    """Scoring calls them through `slimrl.scoring.Scorer`, which makes its own."""
    resolved: Mapping[Kind, Resolved]
    """Everything else that may be offered by name."""
    set_generators: Mapping[str, Resolved] = field(default_factory=dict)
    """By evaluation set: the generator of one that has its own."""
    run_hooks: Sequence[tuple[RunHook, Resolved]] = ()
    """The run's functions, several of a kind in order."""
    trackers: Sequence[Resolved] = ()
    """Made by the one process that gives them metrics, and by no other: making one may begin a record elsewhere."""

    @cached_property
    def generate(self) -> Generate:
        """The generator."""
        return cast(Generate, self.resolved["generator"].make(self.options))

    @cached_property
    def generate_by_set(self) -> Mapping[str, Generate]:
        """By evaluation set: the generator of one that has its own; all who name the same share it."""
        made = {self.resolved["generator"].reference: self.generate}
        for found in self.set_generators.values():
            if found.reference not in made:
                made[found.reference] = cast(Generate, found.make(self.options))
        return {name: made[found.reference] for name, found in self.set_generators.items()}

    def generate_for(self, eval_set: str) -> Generate:
        """The generator of an evaluation set: its own, else that of training."""
        return self.generate_by_set.get(eval_set, self.generate)

    def reference_of(self, generate: Generate) -> str:
        """How a generator of this set was named."""
        own = (self.set_generators[name] for name, made in self.generate_by_set.items() if made is generate)
        return next(own, self.resolved["generator"]).reference

    @cached_property
    def dynamic_filter(self) -> DynamicFilter | None:
        """The group filter, if one is used."""
        found = self.resolved.get("dynamic_filter")
        return None if found is None else cast(DynamicFilter, self._called(found))

    @cached_property
    def buffer_filter(self) -> BufferFilter:
        """How groups leave the buffer."""
        return cast(BufferFilter, self._called(self.resolved["buffer_filter"]))

    def _called(self, found: Resolved) -> RunHookFunction:
        """A plain function of the rollout: what it raises is told with its name."""
        hook = RunHookFunction(found, self.options)
        _ = hook.function  # made now: PluginError if it cannot be
        return hook

    @cached_property
    def advantage(self) -> Advantage | TokenAdvantage:
        """The advantage estimator."""
        return cast(Advantage | TokenAdvantage, self.resolved["advantage"].make(self.options))

    def hooks(self, kind: RunHook) -> list[RunHookFunction]:
        """The run's functions of a kind."""
        return [RunHookFunction(found, self.options) for name, found in self.run_hooks if name == kind]

    def hook(self, kind: RunHook) -> RunHookFunction | None:
        """The run's one function of a kind, if there is one."""
        return next(iter(self.hooks(kind)), None)

    def make_all(self) -> list[str]:
        """Make every plugin; returns what went wrong."""
        problems: list[str] = []
        for component in self.rewards.components():
            try:
                component.resolved.make(self.options)
            except PluginError as error:
                problems += error.problems
        for kind in self.resolved:
            try:
                getattr(self, "generate" if kind == "generator" else kind)
            except PluginError as error:
                problems += error.problems
        if "generator" in self.resolved:
            try:
                _ = self.generate_by_set
            except PluginError as error:
                problems += error.problems
        return list(dict.fromkeys(problems))

    def used(self) -> list[Resolved]:
        """Every plugin, each once."""
        rewards = {c.resolved.reference: c.resolved for c in self.rewards.components()}
        generators = {found.reference: found for found in self.set_generators.values()}
        generators.pop(self.resolved["generator"].reference, None)
        hooks = [found for _, found in self.run_hooks]
        return [*rewards.values(), *self.resolved.values(), *generators.values(), *hooks, *self.trackers]

    def lock(self) -> list[dict[str, object]]:
        """The rows of plugins.lock: name, distribution, version and source hash of each plugin."""
        return [found.lock_row() for found in self.used()]

    @cached_property
    def fingerprint(self) -> str:
        """One hash of the lock, equal wherever the same sources are installed."""
        return fingerprint(self.lock(), self.options.of_plugins())


def resolve_all(
    references: PluginReferences,
    options: Options,
    *,
    expected_fingerprint: str | None = None,
    registry: Registry | None = None,
) -> PluginSet:
    """Resolve every reference of a run; one PluginError lists all problems.

    On the driver every plugin is also made, so that a factory that fails costs a second. Another process passes
    the driver's fingerprint: a mismatch is a PluginError, and plugins are made when they are needed.
    """
    sys.path.extend(folder for folder in references.search_path if folder not in sys.path)
    registry = registry or load(selection=references.selection, warn=expected_fingerprint is None)
    if expected_fingerprint is None:  # another process got every option from the driver
        options = options.with_defaults(registry.catalogue.option_types)
    resolved: dict[Kind, Resolved] = {}
    problems: list[str] = []
    rewards = RewardTable(())
    try:
        rewards = resolve_rewards(registry, references.rewards)
    except PluginError as error:
        problems += error.problems
    for kind, reference in references.by_kind().items():
        try:
            resolved[kind] = registry.resolve(kind, reference)
        except PluginError as error:
            problems += error.problems
    set_generators: dict[str, Resolved] = {}
    for name, reference in references.set_generators:
        try:
            set_generators[name] = registry.resolve("generator", reference)
        except PluginError as error:
            problems += [f"evaluation set {name!r}: {problem}" for problem in error.problems]
    run_hooks: list[tuple[RunHook, Resolved]] = []
    for hook, reference in references.run_hooks:
        try:
            run_hooks.append((hook, registry.resolve(hook, reference)))
        except PluginError as error:
            problems += error.problems
    problems += _pointless(dict(run_hooks))
    trackers: list[Resolved] = []
    for reference in references.trackers:
        try:
            trackers.append(registry.resolve("tracker", reference))
        except PluginError as error:
            problems += error.problems
    plugins = PluginSet(references, options, rewards, resolved, set_generators, run_hooks, trackers)
    if expected_fingerprint is None:
        problems += plugins.make_all()
    if problems:
        raise PluginError(problems)
    if expected_fingerprint is not None and plugins.fingerprint != expected_fingerprint:
        raise PluginError(
            f"the plugins of this process are not the driver's (fingerprint {plugins.fingerprint[:12]} instead of "
            f"{expected_fingerprint[:12]}); install the same packages and files everywhere. Here: {_told(plugins)}"
        )
    return plugins


def _run_hooks(rollout: RolloutConfig, evaluation: EvalConfig, grpo: GrpoConfig) -> Iterator[tuple[RunHook, str]]:
    """The functions that flags name."""
    for kind, spec in RUN_HOOKS.items():
        named = next(getattr(c, spec.setting) for c in (evaluation, grpo, rollout) if hasattr(c, spec.setting))
        if named == SFT:
            continue  # slimrl's own
        references = (named,) if isinstance(named, str) else named or ()
        yield from ((cast(RunHook, kind), absolute(reference)) for reference in references)


def _pointless(hooks: Mapping[RunHook, Resolved]) -> Iterator[str]:
    """Functions that are not called beside others."""
    converter, post_process = hooks.get("train_data_converter"), hooks.get("reward_post_process")
    if converter is not None and converter.shape == "slime" and post_process is not None:
        yield (
            f"--custom-reward-post-process-path {post_process.reference} has no effect with "
            f"--custom-convert-samples-to-train-data-path {converter.reference}, which returns the rewards that are "
            "trained on; leave one out"
        )


def _told(plugins: PluginSet) -> str:
    return ", ".join(
        f"{r['kind']} {r['reference']} {r['version'] or ''} {str(r['sha256'])[:12]}" for r in plugins.lock()
    )
