"""Evaluation sets: name and path from --eval-prompt-data, or more of each from the file of --eval-config."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from slimrl.config.eval import EvalConfig
from slimrl.config.ranges import RANGES
from slimrl.config.rollout import RolloutConfig
from slimrl.config.settings import Setting, did_you_mean


@dataclass(frozen=True)
class EvalDataset:
    """One evaluation set; what is None is as the flags say."""

    name: str
    path: Path
    rm_type: str | None = None
    custom_rm_path: str | None = None
    custom_generate_function_path: str | None = None
    reward_key: str | None = None
    group_rm: bool | None = None
    input_key: str | None = None
    label_key: str | None = None
    metadata_key: str | None = None
    tool_key: str | None = None
    n_samples_per_eval_prompt: int | None = None
    max_response_len: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    min_new_tokens: int | None = None
    max_prompt_len: int | None = None
    max_context_len: int | None = None
    k: tuple[int, ...] | None = None
    """Each k of pass@k; None: 1, 2, 4, ... up to the number of responses."""
    pass_threshold: float | None = None

    @property
    def reward(self) -> str | None:
        """The set's own reward, by name or path; None: that of training."""
        return self.custom_rm_path or (self.rm_type or "").strip() or None

    def keys(self, config: EvalConfig, rollout: RolloutConfig) -> tuple[str, str | None, str]:
        """Under which keys a row holds prompt, label and metadata: the set's, else evaluation's, else training's."""
        return (
            self.input_key or config.eval_input_key or rollout.input_key,
            self.label_key or config.eval_label_key or rollout.label_key,
            self.metadata_key or rollout.metadata_key,
        )


LIMITS: Mapping[str, str] = {
    "n_samples_per_eval_prompt": "n_samples_per_eval_prompt",
    "max_response_len": "eval_max_response_len",
    "temperature": "eval_temperature",
    "top_p": "eval_top_p",
    "top_k": "eval_top_k",
    "min_new_tokens": "eval_min_new_tokens",
    "max_prompt_len": "eval_max_prompt_len",
    "max_context_len": "eval_max_context_len",
    "pass_threshold": "eval_pass_threshold",
}
"""The flag whose range a number has."""


def eval_datasets(config: EvalConfig, problems: list[str]) -> list[EvalDataset]:
    """The evaluation sets; what is wrong with the file of --eval-config is added to `problems`.

    A word of --eval-prompt-data without its partner is left out: the check of the flags reports it.
    """
    if config.eval_config is not None:
        sets = read_eval_config(config.eval_config, problems)
    else:
        words = config.eval_prompt_data
        sets = [EvalDataset(name, Path(path)) for name, path in zip(words[::2], words[1::2], strict=False)]
    return [replace(own, reward_key=own.reward_key or config.eval_reward_key) for own in sets]


def eval_sets(config: EvalConfig) -> list[tuple[str, Path]]:
    """The evaluation sets as (name, path); what is wrong with one, which `check` reports, is left out."""
    return [(dataset.name, dataset.path) for dataset in eval_datasets(config, [])]


def read_eval_config(path: Path, problems: list[str]) -> list[EvalDataset]:
    """The sets of a file: `defaults` and `datasets`, a list or a table by name, in a table `eval` or without one."""
    flag = f"--eval-config {path}"
    document = _document(path, flag, problems)
    if document is None:
        return []
    where = f"{path}: "
    if set(document) == {"eval"} and isinstance(document["eval"], Mapping):
        document = document["eval"]
    for key in document:
        if key not in ("defaults", "datasets"):
            problems.append(f"{where}unknown key {key!r}" + did_you_mean(str(key), ["defaults", "datasets"]))
    defaults, datasets = document.get("defaults") or {}, document.get("datasets")
    if not isinstance(defaults, Mapping):
        problems.append(f"{where}'defaults' must be a table, got {defaults!r}")
        defaults = {}
    if isinstance(datasets, Mapping):
        datasets = [{"name": name, **rest} if _is_table(rest) else rest for name, rest in datasets.items()]
    if not isinstance(datasets, list) or not datasets:
        problems.append(f"{where}'datasets' must be a list of tables, each with a name and a path")
        return []
    table = _table()
    shared = _values(defaults, table, f"{where}defaults: ", problems, without=("name", "path"))
    found = []
    for number, entry in enumerate(datasets, start=1):
        if not _is_table(entry):
            problems.append(f"{where}dataset {number} must be a table, got {entry!r}")
            continue
        label = f"{where}dataset {entry.get('name', number)!r}: "
        values = _values(entry, table, label, problems)
        missing = [key for key in ("name", "path") if key not in entry]
        if missing:
            problems.append(f"{label}{' and '.join(missing)} must be given")
        elif {"name", "path"} <= set(values):
            found.append(EvalDataset(**{**shared, **values}))
    return found


def _document(path: Path, flag: str, problems: list[str]) -> Mapping[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            document: object = tomllib.loads(text)
        else:
            import yaml

            try:
                document = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from error
    except OSError as error:
        problems.append(f"{flag}: {error.strerror or error}")
        return None
    except ValueError as error:  # neither TOML nor YAML, or not UTF-8
        problems.append(f"{flag}: not a {'TOML' if path.suffix == '.toml' else 'YAML'} file: {error}")
        return None
    if not isinstance(document, Mapping):
        problems.append(f"{flag}: expected a table with 'datasets'")
        return None
    return document


def _table() -> dict[str, Setting]:
    hints = get_type_hints(EvalDataset)
    return {field.name: Setting(field.name, "", hints[field.name], None, "") for field in fields(EvalDataset)}


def _values(
    given: Mapping[Any, Any],
    table: Mapping[str, Setting],
    where: str,
    problems: list[str],
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    known = [name for name in table if name not in without]
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_").removeprefix("eval_")
        if name not in known:
            problems.append(f"{where}unknown key {str(key)!r}" + did_you_mean(name, known))
        elif value is not None:
            try:
                values[name] = _typed(value, table[name])
            except TypeError:
                problems.append(f"{where}{str(key)!r} must be {table[name].expects}, got {value!r}")
                continue
            limit = RANGES.get(LIMITS.get(name, ""))
            if limit is not None and not limit.holds(values[name]):
                problems.append(f"{where}{str(key)!r} must be {limit.words}; got {value!r}")
    return values


def _typed(value: object, setting: Setting) -> Any:  # Any: as many types as there are keys
    if setting.item is not None:
        entries = value if isinstance(value, list) else [value]
        return tuple(_scalar(entry, setting.item) for entry in entries)
    return _scalar(value, setting.base)


def _scalar(value: object, kind: type) -> Any:  # Any: an instance of kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if type(value) is not kind:
        raise TypeError
    return value


def _is_table(entry: object) -> bool:
    return isinstance(entry, Mapping)
