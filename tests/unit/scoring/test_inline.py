"""What counts as a text that a quick reward is quick on."""

from __future__ import annotations

from typing import Any

import pytest

from slimrl.scoring.inline import MAX_CHARS, is_short
from slimrl.types import Sample


@pytest.mark.parametrize(
    ("response", "label", "metadata", "short"),
    [
        ("x" * MAX_CHARS, None, {}, True),
        ("x" * MAX_CHARS, "y", {}, False),
        ("", None, {"tests": ["x" * 9_000, {"y": "z" * 9_000}]}, False),
        ("", ["x" * MAX_CHARS], {}, False),
        ("x", 7, {"numbers": [0] * (MAX_CHARS + 1)}, False),
        ("x", 7, {"numbers": list(range(100)), "name": "sums", "nested": {"a": [{}] * 9}}, True),
    ],
)
def test_response_label_and_metadata_count(response: str, label: Any, metadata: dict[str, Any], short: bool) -> None:
    assert is_short(Sample(0, 0, 0, "p", [1], response=response, label=label, metadata=metadata)) is short


def test_metadata_that_holds_itself_is_long() -> None:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    assert not is_short(Sample(0, 0, 0, "p", [1], metadata=metadata))
