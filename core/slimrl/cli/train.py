"""`slimrl train`: check everything that can be checked without starting a process, then train."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from slimrl.checkpoints import latest_checkpoint
from slimrl.cli.main import EXIT_INTERRUPTED
from slimrl.cli.other_weights import check_other_weights
from slimrl.cli.plugin_flags import PLUGIN_FLAGS_HELP, take_plugin_flags
from slimrl.cli.reward_flags import may_hold_secret, shown_command
from slimrl.cli.teacher import with_teacher
from slimrl.config import CkptConfig, Config, RolloutConfig
from slimrl.config.check import check
from slimrl.config.distillation import as_distillation
from slimrl.config.estimator import check_estimator
from slimrl.config.eval_sets import eval_datasets
from slimrl.config.flags import Origins, parse
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.layout import layout_of, recompute_of
from slimrl.config.plan import Plan, format_plan, make_plan
from slimrl.config.prompt_files import parse_prompt_file, parse_prompt_files
from slimrl.config.resolve import resolve
from slimrl.config.sft import as_sft, is_sft
from slimrl.data.files import LeftOut, PromptScan
from slimrl.data.training import scan_evaluation, scan_training
from slimrl.errors import ConfigError, UsageError
from slimrl.megatron.layout_rules import training_problems
from slimrl.megatron.shape import check_model_flags, model_shape
from slimrl.megatron.trained import count_trained
from slimrl.registry import Options, PluginReferences, PluginSelection, PluginSet, Registry, load, resolve_all
from slimrl.registry.rewards import SetReference
from slimrl.registry.unused_options import unused_options
from slimrl.run_start import find_run_folder, find_run_start
from slimrl.traits import advantage_traits_of

T = TypeVar("T")

SWITCHES = {"dry-run": "Check everything, print the plan (batches, steps, processes, memory) and start nothing."}

COMPARES_REWARDS = ("check_reward_nonzero_std", "check_reward_nonzero_std_with_fallback", "accuracy_band")
"""Dynamic filters that keep a group for the rewards in it."""


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
        find_run_folder(prepared.config, find_run_start(prepared.config))
        sys.stdout.write(format_plan(prepared.plan, prepared.config) + "\n")
        return 0
    from slimrl.train import train  # Ray: only when there is something to start

    finished = train(prepared.config, prepared.plan, prepared.plugins, prepared.origins)
    if not finished.interrupted:
        return 0
    if prepared.config.ckpt.no_save_optim:
        sys.stdout.write(
            f"stopped after step {finished.step}; with --no-save-optim it cannot go on, but its weights can be the "
            f"start of another run: --ref-load {latest_checkpoint(finished.checkpoints)}\n"
        )
        return EXIT_INTERRUPTED
    words = ["slimrl", "train", *argv, *load_again(prepared.config.ckpt, finished.checkpoints)]
    sys.stdout.write(
        f"stopped after step {finished.step}; go on with:\n{shown_command(words, prepared.config.rollout.rm_url)}\n"
    )
    return EXIT_INTERRUPTED


def load_again(ckpt: CkptConfig, checkpoints: Path) -> list[str]:
    """What is added to a command line to go on with it: of two flags the last counts."""
    is_there = ckpt.load is not None and ckpt.load.resolve() == checkpoints.resolve()
    newest = [] if ckpt.ckpt_step is None else ["--ckpt-step", "None"]
    return [*([] if is_there else ["--load", str(checkpoints)]), *newest]


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
    said, found = as_distillation(*as_sft(parsed.config, parsed.origins))
    problems = check(said)
    rows = read_rows(said, problems)
    num_prompts = rows.num_prompts
    config, origins = resolve(said, found, num_prompts=num_prompts)
    plugins = None
    missing = without_task_reward(config, rows) if config.grpo.use_opd else without_reward(config.rollout, rows)
    if missing is None:
        plugins = attempt(lambda: resolve_plugins(config, rows, parsed.plugin_options, selection, registry), problems)
        problems += plugin_problems(plugins, rows, registry, given_options(origins)) if plugins else []
        if plugins and not is_sft(config.rollout):
            slimes = {kind for kind, found in plugins.run_hooks if found.shape == "slime"}
            problems += check_estimator(config, advantage_traits_of(plugins.advantage), slimes)
    else:
        problems.append(missing)
    if config.ckpt.hf_checkpoint is not None and (config.ckpt.hf_checkpoint / "config.json").exists():
        folder = config.ckpt.hf_checkpoint
        model = attempt(lambda: open_hf_folder(folder, "--hf-checkpoint"), [])  # `check` has reported it
        problems += check_model_flags(config.model, model.config) if model else []
        problems += layout_problems_of(config, model.config) if model else []
        if model is not None:
            problems += check_other_weights(said.ckpt, model.config)
            config = attempt(partial(with_teacher, config, model.config), problems) or config
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    assert plugins is not None, "a check that failed has named its problem"
    has_critic = advantage_traits_of(plugins.advantage).needs_values
    num_trained = None
    if model is not None and (config.trained.only_train_params_name_list or config.trained.freeze_params_name_list):
        num_trained = count_trained(model.config, model.sizes(), config.trained)
    plan = make_plan(config, num_prompts=num_prompts, has_critic=has_critic, num_trained=num_trained)
    if config.rollout.rm_url is not None and may_hold_secret(config.rollout.rm_url):
        sys.stderr.write(
            "warning: --rm-url may hold a secret, which config.toml in the run's folder keeps; write it as ${NAME} and "
            "set the environment variable NAME\n"
        )
    for entry in rows.left_out:
        sys.stderr.write(f"warning: {entry.told()}\n")
    return Prepared(config, plan, plugins, origins, is_dry_run="dry-run" in parsed.switches)


def layout_problems_of(config: Config, hf_config: Mapping[str, Any]) -> list[str]:
    """What the model does not allow of the trainer's layout."""
    shape = attempt(lambda: model_shape(hf_config), [])  # `check_model_flags` reports what it cannot be
    layout = layout_of(config.cluster, config.perf, config.optimizer)
    return training_problems(shape, layout, recompute_of(config.perf)) if shape else []


@dataclass
class PromptRows:
    """What the prompt files hold."""

    num_prompts: int | None = None
    """Training prompts in an epoch; None where a file could not be read."""
    rm_types: dict[str, str] = field(default_factory=dict)
    """The rewards that rows name, each with the first row that does."""
    unnamed: str | None = None
    """The first row that names none, where the set has no reward of its own."""
    unnamed_eval: str | None = None
    """The first of an evaluation set."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows of the training prompts that are not used."""

    def add(self, scan: PromptScan) -> None:
        self.rm_types = {**scan.rm_types, **self.rm_types}
        self.unnamed = self.unnamed or scan.unnamed


def read_rows(config: Config, problems: list[str]) -> PromptRows:
    """Read every prompt file, those of the evaluation too."""
    rollout = config.rollout
    rows = PromptRows()
    folder = config.ckpt.hf_checkpoint
    if folder is not None and attempt(partial(open_hf_folder, folder, "--hf-checkpoint"), []) is None:
        folder = None  # `check` has reported it
    specs = [] if rollout.data_source_path else parse_prompt_files(rollout.prompt_data, [])
    if specs and len(specs) == len(rollout.prompt_data) and all(_is_read(spec.path) for spec in specs):
        scan = attempt(partial(scan_training, specs, rollout, folder), problems)
        if scan is not None:
            rows.num_prompts = scan.count
            rows.left_out = scan.left_out
            rows.add(scan)
    for dataset in eval_datasets(config.eval, []):
        spec = attempt(partial(parse_prompt_file, str(dataset.path), weighted=False), [])  # `check` has reported it
        if spec is not None and _is_read(spec.path):
            scan = attempt(partial(scan_evaluation, dataset, config.eval, rollout, folder), problems)
            if scan is not None and dataset.reward is None:
                rows.add(scan)
                rows.unnamed_eval = rows.unnamed_eval or scan.unnamed
    return rows


def _is_read(path: Path) -> bool:
    """Whether there is something to read; `check` has reported a file that is not there or empty."""
    return path.is_file() and path.stat().st_size > 0


def without_reward(rollout: RolloutConfig, rows: PromptRows) -> str | None:
    """What is to be said where a row has no reward; None where each has one."""
    if names_reward(rollout) or is_sft(rollout):
        return None
    if not rows.rm_types:
        return "a reward is required: --rm-type NAME, --reward NAME=WEIGHT or --custom-rm-path FILE.py:FUNCTION"
    if rows.unnamed is None:
        return None
    return (
        f"{rows.unnamed}: no reward: other rows name one (metadata.rm_type), this one does not; say what scores it "
        "with --rm-type NAME"
    )


def without_task_reward(config: Config, rows: PromptRows) -> str | None:
    """What is to be said where a policy learns from a teacher, and a reward is missing that something else reads."""
    if names_reward(config.rollout):
        return None
    if rows.unnamed_eval is not None:
        return f"{rows.unnamed_eval}: no reward: an evaluation needs one; say what scores it with --rm-type NAME"
    dynamic_filter = config.rollout.dynamic_sampling_filter_path or ""
    if not rows.rm_types and re.split("[.:/]", dynamic_filter)[-1] in COMPARES_REWARDS:
        return (
            f"--dynamic-sampling-filter-path {dynamic_filter} compares rewards, and with --use-opd and no reward all "
            "are 0: it would drop every group; leave it out, or give a reward (--rm-type NAME)"
        )
    return None


def names_reward(rollout: RolloutConfig) -> bool:
    """Whether a flag says what scores every sample."""
    return bool(rollout.custom_rm_path or rollout.reward or (rollout.rm_type or "").strip())


def resolve_plugins(
    config: Config, rows: PromptRows, plugin_options: Sequence[object], selection: PluginSelection, registry: Registry
) -> PluginSet:
    options = Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options])
    datasets = eval_datasets(config.eval, [])
    sets = [
        SetReference(dataset.name, dataset.reward, dataset.reward_key, dataset.group_rm)
        for dataset in datasets
        if dataset.reward or dataset.reward_key
    ]
    references = PluginReferences.from_config(
        config.rollout,
        config.grpo,
        config.eval,
        rm_types=tuple(rows.rm_types),
        sets=sets,
        set_generators={
            dataset.name: dataset.custom_generate_function_path
            for dataset in datasets
            if dataset.custom_generate_function_path
        },
        trackers=config.observe.tracker,
    )
    references = replace(references, selection=selection)
    return resolve_all(references, options, registry=registry)


def plugin_problems(
    plugins: PluginSet, rows: PromptRows, registry: Registry, given: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with plugins that were found: rewards that only rows name, and options that nothing reads."""
    yield from (f"{rows.rm_types[name]}: {said}" for name, said in plugins.rewards.unknown.items())
    yield from unused_options(registry.catalogue, plugins.used(), given)


def given_options(origins: Origins, *, in_file: bool = True) -> dict[str, str]:
    """The settings that were said, with their spelling: flags, and with `in_file` the keys of the file of --config."""
    flags = {name: f"--{name.replace('_', '-')}" for name, origin in origins.items() if origin == "flag"}
    files = {name: origin.removeprefix("file ") for name, origin in origins.items() if origin.startswith("file ")}
    return {**{name: f"{path}: {name}" for name, path in files.items()}, **flags} if in_file else flags


def attempt(action: Callable[[], T], problems: list[str]) -> T | None:
    """The action's result, or None and its problems among the others."""
    try:
        return action()
    except UsageError as error:
        problems += error.problems
        return None
