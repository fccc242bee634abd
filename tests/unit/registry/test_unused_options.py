"""An option of a plugin that nothing uses is refused; one that anything of its entry point may read is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimrl.registry import load
from slimrl.registry.unused_options import unused_options

OFFERS = """
from dataclasses import dataclass
from slimrl import hookimpl

@dataclass(frozen=True)
class PairOptions:
    pair_limit: int = 3

@hookimpl
def slimrl_options():
    return [PairOptions]

@hookimpl
def slimrl_offer_rewards():
    return {"first": lambda options: lambda sample: 1.0, "second": lambda options: lambda sample: 2.0}
"""
PLAIN = """
from slimrl import hookimpl

@hookimpl
def slimrl_offer_rewards():
    return {"alone": lambda options: lambda sample: 1.0}
"""
GIVEN = {"pair_limit": "--pair-limit", "rollout_seed": "--rollout-seed"}


@pytest.fixture
def files(tmp_path: Path, install: Any) -> Path:
    install("rl-reward-pair", {"pair_of_rewards": OFFERS, "one_reward": PLAIN})
    (tmp_path / "mine.py").write_text(
        "def ours(sample):\n    return 1.0\n\ndef slimes(args, sample):\n    return 1.0\n"
    )
    return tmp_path


def said(*references: str) -> list[str]:
    registry = load(warn=False)
    used = [registry.resolve("reward", reference) for reference in references]
    return list(unused_options(registry.catalogue, used, GIVEN))


def test_an_option_of_an_entry_point_that_is_not_used_is_refused_with_the_way_to_use_it(files: Path) -> None:
    assert said("alone", "math") == [
        "--pair-limit has no effect: it is of plugin pair_of_rewards (rl-reward-pair 1.2, pair_of_rewards), which is "
        "not used (it offers reward first, reward second)"
    ]
    assert len(said(f"{files}/mine.py:ours")) == 1


@pytest.mark.parametrize("reference", ["first", "rl-reward-pair/second", "boxed_first", "pair_of_rewards:hookimpl"])
def test_whatever_its_entry_point_offers_may_read_it(files: Path, reference: str) -> None:
    assert said("alone", reference) == []


def test_slimes_args_have_every_option(files: Path) -> None:
    assert said("alone", f"{files}/mine.py:slimes") == []
