"""`slimrl train`: check everything that can be checked without starting a process, then train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from slimrl.cli.main import EXIT_INTERRUPTED
from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP, take_plugin_flags
from slimrl.config import Config
from slimrl.config.check import check, eval_sets
from slimrl.config.flags import Origins, parse
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.plan import Plan, format_plan, make_plan
from slimrl.config.resolve import resolve
from slimrl.data.prompts import PromptKeys, count_prompts
from slimrl.errors import ConfigError, UsageError
from slimrl.megatron.shape import check_model_flags
from slimrl.registry import Options, PluginReferences, PluginSelection, PluginSet, Registry, load, resolve_all

T = TypeVar("T")

SWITCHES = {"dry-run": "Check everything, print the plan (batches, steps, processes, memory) and start nothing."}


@dataclass(frozen=True)
class Prepared:
    """A checked run: what `slimrl.train.train` takes."""

    config: Config
    """With every derived setting filled in."""
    plan: Plan
    plugins: PluginSet
    origins: Origins
    is_dry_run: bool


def main(argv: Sequence[str]) -> int:
    """Train, or with --dry-run print the plan; raises UsageError listing everything that is wrong."""
    prepared = prepare(argv)
    if prepared.is_dry_run:
        sys.stdout.write(format_plan(prepared.plan, prepared.config) + "\n")
        return 0
    from slimrl.train import train  # Ray: only when there is something to start

    finished = train(prepared.config, prepared.plan, prepared.plugins, prepared.origins)
    if not finished.interrupted:
        return 0
    words = ["slimrl", "train", *argv]
    if prepared.config.ckpt.load is None:  # who said where to load from said it for the resumed run too
        words += ["--load", str(finished.checkpoints)]
    sys.stdout.write(f"stopped after step {finished.step}; go on with:\n{shlex.join(words)}\n")
    return EXIT_INTERRUPTED


def prepare(argv: Sequence[str]) -> Prepared:
    """Parse and check a command line; raises ConfigError with the problems of all checks together."""
    selection, words = take_plugin_flags(argv)
    registry = load(selection=selection)
    parsed = parse(
        words,
        description=f"Train a model with a reward. {PLUGIN_FLAGS_HELP}",
        switches=SWITCHES,
        extra=registry.catalogue.option_types,
    )
    problems = check(parsed.config)
    num_prompts = _count_rows(parsed.config, problems)
    config, origins = resolve(parsed.config, parsed.origins, num_prompts=num_prompts)
    plugins = (
        _attempt(lambda: _resolve_plugins(config, parsed.plugin_options, selection, registry), problems)
        if _has_reward(config)
        else None
    )
    if config.ckpt.hf_checkpoint is not None and (config.ckpt.hf_checkpoint / "config.json").exists():
        folder = config.ckpt.hf_checkpoint
        model = _attempt(lambda: open_hf_folder(folder, "--hf-checkpoint"), [])  # `check` has reported it
        problems += check_model_flags(config.model, model.config) if model else []
    if problems:
        raise ConfigError(problems)
    assert plugins is not None and num_prompts is not None, "a check that failed has named its problem"
    plan = make_plan(config, num_prompts=num_prompts)
    return Prepared(config, plan, plugins, origins, is_dry_run="dry-run" in parsed.switches)


def _count_rows(config: Config, problems: list[str]) -> int | None:
    """Read every prompt file, those of the evaluation too; the number of training prompts."""
    rollout, held_out = config.rollout, config.eval
    keys = PromptKeys(rollout.input_key, rollout.label_key, rollout.metadata_key)
    eval_keys = PromptKeys(
        held_out.eval_input_key or keys.input, held_out.eval_label_key or keys.label, rollout.metadata_key
    )
    for _, path in eval_sets(held_out):
        _count(path, eval_keys, problems)
    return _count(rollout.prompt_data, keys, problems) if rollout.prompt_data else None


def _count(path: Path, keys: PromptKeys, problems: list[str]) -> int | None:
    if not path.is_file() or path.stat().st_size == 0:
        return None  # `check` has reported it
    return _attempt(lambda: count_prompts(path, keys), problems)


def _has_reward(config: Config) -> bool:
    return config.rollout.rm_type is not None or config.rollout.custom_rm_path is not None


def _resolve_plugins(
    config: Config, plugin_options: Sequence[object], selection: PluginSelection, registry: Registry
) -> PluginSet:
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    references = replace(PluginReferences.from_config(config.rollout, config.grpo), selection=selection)
    return resolve_all(references, options, registry=registry)


def _attempt(action: Callable[[], T], problems: list[str]) -> T | None:
    """The action's result, or None and its problems among the others."""
    try:
        return action()
    except UsageError as error:
        problems += error.problems
        return None
