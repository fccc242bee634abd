"""What `slimrl replay` is told, checked: a run's folder, its stored steps, and the plugins that made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slimrl.cli.command_flags import read_flags, typed_settings
from slimrl.cli.plugin_flags import check_options
from slimrl.cli.reward_flags import check_scoring
from slimrl.config import Config
from slimrl.config.distillation import as_distillation
from slimrl.config.flags import parse
from slimrl.config.resolve import resolve
from slimrl.config.sft import as_sft, is_sft
from slimrl.errors import PluginError, UsageError
from slimrl.observe.run_dir import RunDir
from slimrl.observe.stored_rollout import read_rollout, stored_steps
from slimrl.registry import Options, PluginReferences, PluginSet, Registry, RewardTable, resolve_rewards
from slimrl.registry.kinds import KIND_NAMES, RUN_HOOK_NAMES, AnyKind, Kind, RunHook
from slimrl.registry.rewards import RM_TYPE

if TYPE_CHECKING:
    from slimrl.types import TrainBatch

PLUGINS: Final[tuple[Kind, ...]] = ("dynamic_filter", "advantage")
HOOKS: Final[tuple[RunHook, ...]] = (
    *("reward_post_process", "train_data_converter", "data_postprocess"),
    *("custom_advantage", "custom_tis", "custom_loss", "pg_loss_reducer"),
)
"""The functions that make a batch of groups, or advantages of it."""


@dataclass(frozen=True)
class ReplayFlags:
    """The flags of `slimrl replay`."""

    step: int | None = None
    """Only this step. Unset: every stored step of the run."""
    catch_up: bool = False
    """Reach a step that has no checkpoint by training on the stored steps before it, from the nearest weights on."""
    model: bool = True
    """Compute loss and gradient, for which the weights are needed; --no-model leaves that out."""
    num_threads: int | None = None
    """Threads to compute with. Unset: as in the run."""
    rm_timeout: float | None = None
    """Seconds that scoring one sample may take. Unset: as in the run."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Job:
    """A checked command."""

    run: RunDir
    config: Config
    flags: ReplayFlags
    steps: dict[int, Path]
    """All stored ones."""
    plugins: PluginSet
    no_rewards: str
    """Why the rewards cannot be resolved; empty where they can."""
    changed: list[str]
    """Plugins whose source is not what the run had."""

    @cached_property
    def chosen(self) -> list[int]:
        """The steps to replay."""
        return list(self.steps) if self.flags.step is None else [self.flags.step]

    @cached_property
    def recorded(self) -> dict[int, dict[str, float]]:
        """Metrics by step."""
        rows: dict[int, dict[str, float]] = {}
        for row in self.run.read_metrics():
            rows.setdefault(int(row["step"]), {}).update(row)
        return rows

    def batch_at(self, step: int) -> TrainBatch:
        """What a stored step was trained on."""
        from slimrl.replay import batch_of, conversations_of

        if step not in self.steps:
            raise UsageError(f"--catch-up: the samples of step {step} are not in {self.run.rollouts}")
        groups = read_rollout(self.steps[step])
        if is_sft(self.config.rollout):
            return conversations_of(step, groups)
        return batch_of(step, groups, self.plugins)


def resolve_job(run: RunDir, words: Sequence[str], registry: Registry) -> Job:
    """The command for a run's folder; raises UsageError with what is wrong, before anything starts."""
    if not run.config.is_file():
        raise UsageError(f"{run.path} is no run folder: there is no {run.config.name} in it")
    parsed = parse(["--config", str(run.config)], extra=registry.catalogue.option_types)
    flags, plugin_options = read_flags(words, ReplayFlags, parsed.plugin_options)
    config, _ = resolve(*as_distillation(*as_sft(parsed.config, parsed.origins)))
    steps = stored_steps(run.rollouts)
    if not steps:
        raise UsageError(f"{run.path} has no stored samples ({run.rollouts.name}/STEP.parquet)")
    if flags.step is not None and flags.step not in steps:
        raise UsageError(f"--step {flags.step}: the run has the steps {min(steps)} to {max(steps)}")
    if flags.catch_up and not flags.model:
        raise UsageError("--catch-up has no effect with --no-model; leave one out")
    if flags.num_threads is not None and not flags.model:
        raise UsageError("--num-threads has no effect with --no-model; leave one out")
    if flags.num_threads is not None and flags.num_threads < 1:
        raise UsageError(f"--num-threads {flags.num_threads} must be at least 1")
    if problems := list(check_scoring(flags.rm_timeout, None)):
        raise UsageError(problems)
    if config.grpo.keep_old_actor and flags.model:
        raise UsageError(
            "the run was made with --keep-old-actor: its old log-probs are of weights that no checkpoint has; replay "
            "the rest with --no-model"
        )
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    options = options.with_defaults(registry.catalogue.option_types)
    rewards, no_rewards = RewardTable(()), ""
    rm_types = _rm_types(steps if flags.step is None else {flags.step: steps[flags.step]})
    references = PluginReferences.from_config(config.rollout, config.grpo, rm_types=rm_types)
    try:
        rewards = resolve_rewards(registry, references.rewards)
    except PluginError as error:
        no_rewards = "; ".join(error.problems)
    named = {kind: reference for kind, reference in references.by_kind().items() if kind in PLUGINS}
    found = {kind: registry.resolve(kind, reference) for kind, reference in named.items()}
    hooks = [(kind, registry.resolve(kind, name)) for kind, name in references.run_hooks if kind in HOOKS]
    plugins = PluginSet(references, options, rewards, found, {}, hooks)
    check_options(registry, [*(c.resolved for c in rewards.components()), *found.values()], typed_settings(words))
    return Job(run, config, flags, steps, plugins, no_rewards, list(_changed(run, registry)))


def _rm_types(steps: Mapping[int, Path]) -> list[str]:
    """The rewards that samples name."""
    metadata = [sample.metadata for path in steps.values() for group in read_rollout(path) for sample in group]
    return sorted({str(one[RM_TYPE]) for one in metadata if isinstance(one, dict) and one.get(RM_TYPE)})


def _changed(run: RunDir, registry: Registry) -> Iterator[str]:
    """What plugins.lock has another hash of."""
    for kind, reference, file_hash in _locked(run.plugins_lock):
        name = f"{kind} {reference}"
        try:
            found = registry.resolve(kind, reference)
        except PluginError as error:
            yield f"{name} cannot be loaded any more: {'; '.join(error.problems)}"
            continue
        if found.file_hash != file_hash:
            yield f"{name} has another source than in the run"


def _locked(lock: Path) -> list[tuple[AnyKind, str, str]]:
    """Kind, reference and hash of each plugin that the run had."""
    if not lock.is_file():
        return []
    try:
        rows = json.loads(lock.read_text(encoding="utf-8"))
        found = [(row["kind"], row["reference"], row["sha256"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{lock} is no list of plugins: {error!r}") from error
    if unknown := [kind for kind, _, _ in found if kind not in (*KIND_NAMES, *RUN_HOOK_NAMES)]:
        raise UsageError(f"{lock} is no list of plugins: there is no kind {unknown[0]!r}")
    return found
