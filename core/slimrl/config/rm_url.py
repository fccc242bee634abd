"""--rm-url: the server of the reward remote_rm, and who may lead to that reward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimrl.config import Config
from slimrl.config.eval_sets import eval_sets
from slimrl.config.prompt_files import parse_prompt_files

REMOTE_RM = "remote_rm"
"""The reward that --rm-url is for."""


def check_rm_url(config: Config) -> Iterator[str]:
    """Why --rm-url would have no effect: neither a flag nor a row leads to a reward that reads it."""
    rollout = config.rollout
    if rollout.rm_url is None:
        return
    named = [rollout.custom_rm_path or "", *rollout.reward, rollout.rm_type or ""]
    if any(REMOTE_RM in name or ":" in name or "." in name.partition("=")[0] for name in named):
        return  # a function of the user's may read it too
    words = [*rollout.prompt_data, *(str(path) for _, path in eval_sets(config.eval))]
    files = [config.eval.eval_config, *(spec.path for spec in parse_prompt_files(words, []))]
    if not any(path and _mentions(path, REMOTE_RM) for path in files):
        yield f"--rm-url has no effect without {REMOTE_RM}: give --rm-type {REMOTE_RM}, or rows whose metadata say it"


def _mentions(path: Path, word: str) -> bool:
    """Whether a file may have the word somewhere: a row's metadata may name a reward."""
    if path.suffix == ".parquet":  # compressed, and not read for a word
        return True
    try:
        with path.open("rb") as file:
            return any(word.encode() in line for line in file)
    except OSError:
        return False  # reported with the files
