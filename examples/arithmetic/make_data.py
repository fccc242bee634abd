"""Write train.jsonl and test.jsonl: every sum of two digits once, no test problem (in either order) in training."""

from __future__ import annotations

import json
import random
from pathlib import Path

TEST_PAIRS = 12


def main() -> None:
    """Split the unordered pairs of digits, then write both orders of each."""
    pairs = [(x, y) for x in range(10) for y in range(x, 10)]
    random.Random(0).shuffle(pairs)
    for name, part in (("test", pairs[:TEST_PAIRS]), ("train", pairs[TEST_PAIRS:])):
        ordered = sorted({pair for x, y in part for pair in ((x, y), (y, x))})
        rows = [{"input": f"What is {x} + {y}?", "label": x + y} for x, y in ordered]
        path = Path(__file__).with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
