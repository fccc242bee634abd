"""`python -m rl_reward_reasoning_gym`: write a prompt file of one task."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_reward_reasoning_gym.prompts import IN_TAGS, write
from slimrl import UsageError


def setting(text: str) -> tuple[str, Any]:
    """`max_terms=3` as a name and a JSON value; what is no JSON is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; 2 and one line for a wrong task or setting."""
    parser = argparse.ArgumentParser(prog="python -m rl_reward_reasoning_gym", description=__doc__)
    parser.add_argument("--task", required=True, help="the task's name in reasoning-gym, for example chain_sum")
    parser.add_argument("--size", type=int, required=True, help="how many problems")
    parser.add_argument("--seed", type=int, default=0, help="other problems for another seed")
    parser.add_argument("--output", type=Path, required=True, help="the JSON lines file that is written")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a setting of the task"
    )
    parser.add_argument("--instruction", default=IN_TAGS, help="what is said below each question; empty for nothing")
    told = parser.parse_args(arguments)
    try:
        write(told.output, told.task, told.size, told.seed, dict(told.set), told.instruction)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
