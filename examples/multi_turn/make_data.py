"""Write train.jsonl and test.jsonl: every sum of two digits, of which the prompt has one, behind an example."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEST_SUMS = 20
EXAMPLE = (
    {"role": "system", "content": "Ask, then answer."},
    {"role": "user", "content": "5 + ?"},
    {"role": "assistant", "content": "5 + what?"},
    {"role": "user", "content": "What is 5 + 2?"},
    {"role": "assistant", "content": "5 + 2 = 7"},
)


def main() -> None:
    """Split the sums; a row's second number is where only the environment looks."""
    sums = [(x, y) for x in range(10) for y in range(10) if (x, y) != (5, 2)]
    random.Random(0).shuffle(sums)
    for name, part in (("test", sums[:TEST_SUMS]), ("train", sums[TEST_SUMS:])):
        rows = [
            {
                "input": [*EXAMPLE, {"role": "user", "content": f"{x} + ?"}],
                "label": x + y,
                "metadata": {"numbers": [x, y]},
            }
            for x, y in sorted(part)
        ]
        path = Path(__file__).with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
