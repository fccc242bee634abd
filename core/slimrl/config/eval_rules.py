"""What must hold between evaluation's flags, its sets and the training prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

from slimrl.config import Config, EvalConfig
from slimrl.config.eval_sets import EvalDataset, eval_datasets
from slimrl.config.prompt_files import parse_prompt_files

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_eval(config: EvalConfig, max_response_len: int | None) -> Iterator[str]:
    """What of evaluation's flags does not fit together, and of each of its sets."""
    if config.eval_interval is None:
        training = {"log_passrate", "eval_pass_threshold"} if config.log_passrate else ()
        for field in fields(config):
            if getattr(config, field.name) != field.default and field.name not in training:
                yield f"--{field.name.replace('_', '-')} has no effect without --eval-interval"
    elif not config.eval_prompt_data and config.eval_config is None and config.eval_function_path is None:
        yield "--eval-interval needs --eval-prompt-data: pairs of a name and a path (or --eval-config FILE)"
    words = config.eval_prompt_data
    if words and config.eval_config is not None:
        yield "--eval-prompt-data and --eval-config both name the evaluation sets; leave one out"
    if len(words) % 2:
        yield f"--eval-prompt-data takes pairs of a name and a path; got {len(words)} words: {' '.join(words)}"
    problems: list[str] = []
    datasets = eval_datasets(config, problems)
    names = [dataset.name for dataset in datasets]
    yield from problems
    for dataset in datasets:
        yield from check_set(dataset, config, max_response_len)
    flag = "--eval-prompt-data" if config.eval_config is None else f"--eval-config {config.eval_config}"
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"{flag} names two sets {name!r}"
        if not SET_NAME.fullmatch(name):
            yield f"{flag}: {name!r} cannot name a set; use letters, digits, '.', '_' and '-'"


def check_set(dataset: EvalDataset, config: EvalConfig, max_response_len: int | None) -> Iterator[str]:
    """What of a set's values does not fit together."""
    if dataset.group_rm is not None and not any(mark in (dataset.reward or "") for mark in ":."):
        yield (
            f"evaluation set {dataset.name!r}: 'group_rm' has no effect without a reward of the set's own, named by "
            "path; what a plugin offers says itself whether it takes groups"
        )
    size = dataset.n_samples_per_eval_prompt or config.n_samples_per_eval_prompt
    for k in dataset.k or ():
        if not 1 <= k <= size:
            yield (
                f"evaluation set {dataset.name!r}: 'k' must be from 1 to the {size} responses per prompt "
                f"(n_samples_per_eval_prompt); got {k}"
            )
    least = config.eval_min_new_tokens if dataset.min_new_tokens is None else dataset.min_new_tokens
    most = dataset.max_response_len or config.eval_max_response_len or max_response_len
    if least is not None and most is not None and least > most:
        yield f"evaluation set {dataset.name!r}: at least {least} new tokens but at most {most} in a response"


def check_names(config: Config) -> Iterator[str]:
    """A set's reward is found by the set's name: no file of training prompts may have it."""
    own = {dataset.name for dataset in eval_datasets(config.eval, []) if dataset.reward or dataset.reward_key}
    for spec in parse_prompt_files(config.rollout.prompt_data, []):
        if spec.name in own:
            yield (
                f"--prompt-data {spec.path}: the evaluation set {spec.name!r} with a reward of its own has the file's "
                "name; give the set another one"
            )
