"""A question in two parts: the second number is only told to a model that asks for it."""

from __future__ import annotations

from slimrl import Sample


def answer(sample: Sample, reply: str) -> str | None:
    """What the model is told after a reply: the whole question if it asked, nothing when it has had that."""
    if sample.metadata.get("told"):
        return None
    if "?" not in reply:
        return "Ask me a question."
    sample.metadata["told"] = True
    first, second = sample.metadata["numbers"]
    return f"What is {first} + {second}?"
