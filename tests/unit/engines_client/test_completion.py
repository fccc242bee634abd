"""Weight versions of tokens, from spans."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.completion import UNKNOWN_VERSION, version_per_token


def slow_versions(meta: dict[str, Any], num_tokens: int) -> list[int]:
    found = []
    for index in range(num_tokens):
        version = meta["weight_version"]
        for span in meta["weight_versions"]:
            if span["start"] <= index < span["end"]:
                version = span["version"]
        found.append(int(version))
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4), st.integers(0, 3))
def test_spans_give_each_token_its_version(pieces: list[tuple[int, int]], missing: int) -> None:
    spans, start = [], 0
    for length, version in pieces:
        spans.append({"version": str(version), "start": start, "end": start + length})
        start += length
    meta = {"weight_version": "11", "weight_versions": spans}
    num_tokens = max(start - missing, 0)  # tokens after a stop string may be cut from the reply
    versions = version_per_token(meta, num_tokens)
    assert versions == slow_versions(meta, num_tokens)


def test_a_server_without_spans_has_one_version_for_all() -> None:
    assert version_per_token({"weight_version": "3"}, 2) == [3, 3]


def test_a_version_that_is_not_an_integer_is_unknown() -> None:
    assert version_per_token({"weight_version": "default", "weight_versions": None}, 1) == [UNKNOWN_VERSION]
    assert version_per_token({}, 1) == [UNKNOWN_VERSION]
