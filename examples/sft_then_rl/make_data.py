"""Write conversations.jsonl: the arithmetic example's training problems, each with a reply to learn from."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """One conversation a problem: the sum alone, so that a reply is short and ends."""
    problems = [json.loads(line) for line in (HERE.parent / "arithmetic" / "train.jsonl").read_text().splitlines()]
    rows = [
        {
            "messages": [
                {"role": "user", "content": problem["input"]},
                {"role": "assistant", "content": str(problem["label"])},
            ]
        }
        for problem in problems
    ]
    (HERE / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
