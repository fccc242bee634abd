"""A command's flags as a dataclass: what its help says of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from slimrl.cli.command_flags import print_help


@dataclass(frozen=True)
class Flags:
    """The flags of `slimrl toss`."""

    coins: int = 1
    """Coins that are tossed."""
    bias: float = 0.0
    """How much likelier heads are."""
    sides: tuple[str, ...] = ("heads", "tails")
    """What a coin shows."""
    json: bool = False
    """Print JSON."""
    seed: int | None = None
    """Seed of the tosses."""


def test_help_has_every_default_that_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    print_help("slimrl toss", "Toss coins.", Flags, takes_plugin_flags=False)
    lines = capsys.readouterr().out.splitlines()
    told = {lines[i].split()[0]: lines[i + 1].strip() for i in range(len(lines)) if lines[i].startswith("  --")}
    assert told == {
        "--coins": "Coins that are tossed. Default: 1.",
        "--bias": "How much likelier heads are. Default: 0.0.",
        "--sides": "What a coin shows. Default: heads tails.",
        "--json": "Print JSON.",
        "--seed": "Seed of the tosses.",
    }
