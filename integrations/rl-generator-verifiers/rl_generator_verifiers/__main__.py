"""`python -m rl_generator_verifiers`: write the prompt file of a verifiers environment."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rl_generator_verifiers.stage import Stage
from slimrl import UsageError

NO_PROMPT = "(the environment begins)"


def rows(stage: Stage, begin: int, size: int) -> Iterator[dict[str, Any]]:
    """Tasks of the environment as rows: the conversation they begin with, and their place in the taskset."""
    for index in range(begin, begin + size):
        try:
            task = stage.task(index)
        except IndexError:
            return
        data = task.data
        prompt = data.prompt if data.prompt is not None else NO_PROMPT
        messages = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message.model_dump(exclude_none=True) for message in prompt]
        yield {"input": messages, "metadata": {"verifiers": {"index": index, "key": task.key}}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; 2 and one line for an environment that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m rl_generator_verifiers", description=__doc__)
    parser.add_argument("--env", required=True, help="as --verifiers-env: a taskset's name or a .toml file")
    parser.add_argument("--begin", type=int, default=0, help="the first task's place in the taskset")
    parser.add_argument("--size", type=int, required=True, help="how many tasks at most")
    parser.add_argument("--output", type=Path, required=True, help="the JSON lines file that is written")
    told = parser.parse_args(arguments)
    try:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(Stage(told.env), told.begin, told.size)]
        if not lines:
            raise UsageError(f"{told.env} has no task from {told.begin} on")
        told.output.write_text("".join(lines), encoding="utf-8")
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
