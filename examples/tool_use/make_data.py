"""Write train.jsonl and test.jsonl: products that the model cannot work out by itself, with one example of the tool."""

from __future__ import annotations

import json
import random
from pathlib import Path

EXAMPLE = (
    {"role": "system", "content": "Use Python."},
    {"role": "user", "content": "What is 23 * 45?"},
    {"role": "assistant", "content": "```python\nprint(23 * 45)\n```"},
    {"role": "user", "content": "```output\n1035\n```"},
    {"role": "assistant", "content": "1035"},
)


def main() -> None:
    """Draw pairs of factors, each pair once."""
    chance = random.Random(0)
    pairs = sorted({(chance.randrange(100, 1000), chance.randrange(11, 100)) for _ in range(140)})
    chance.shuffle(pairs)
    for name, part in (("test", pairs[:20]), ("train", pairs[20:])):
        rows = [
            {"input": [*EXAMPLE, {"role": "user", "content": f"What is {x} * {y}?"}], "label": x * y} for x, y in part
        ]
        path = Path(__file__).with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
