"""The conformance checks as pytest tests, one a check."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from slimrl.registry import Kind
from slimrl.testing.scoring import Plugin
from slimrl.testing.suites import Suite, suite


class ConformanceWarning(UserWarning):
    """A check found something that may be meant."""


def conformance(
    kind: Kind,
    plugin: Plugin,
    *,
    golden: Sequence[object] | Path = (),
    options: Sequence[object] = (),
    reward_key: str | None = None,
    group: bool = False,
    timeout_s: float | None = None,
    strict: bool = False,
) -> Callable[[str], None]:
    """A test function for `test_conforms = conformance("reward", "short", golden=[(response, label, expected)])`.

    One test a check. A failure fails it, a warning warns (with `strict` it fails too). The other arguments are
    those of `suite`.
    """
    checks = suite(
        kind, plugin, golden=golden, options=options, reward_key=reward_key, group=group, timeout_s=timeout_s
    )

    @pytest.mark.parametrize("check", checks.names)
    def conforms(check: str) -> None:
        judge(checks, check, strict=strict)

    return conforms


def judge(checks: Suite, name: str, *, strict: bool = False) -> None:
    """Run one check and pass, warn, skip or fail as pytest does."""
    if blocked := checks.blocked_by(name):
        pytest.skip(f"not looked at: {blocked}")
    finding = checks.find(name)
    if finding.outcome == "failure" or (strict and finding.outcome == "warning"):
        pytest.fail(f"{checks.kind} {checks.reference!r}: {finding.sentence}: {finding.detail}", pytrace=False)
    if finding.outcome == "warning":
        warnings.warn(ConformanceWarning(f"{checks.reference}: {finding}"), stacklevel=2)
