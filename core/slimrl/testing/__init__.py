"""For plugin authors: samples, a fake engine, and the checks that every plugin of a kind must pass."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from slimrl.testing.as_tests import ConformanceWarning, conformance
    from slimrl.testing.fake_engine import FakeEngine
    from slimrl.testing.finding import Finding
    from slimrl.testing.golden import Golden
    from slimrl.testing.samples import make_group, make_sample
    from slimrl.testing.scoring import resolve, score
    from slimrl.testing.suites import Suite, suite

__all__ = [
    "ConformanceWarning",
    "FakeEngine",
    "Finding",
    "Golden",
    "Suite",
    "conformance",
    "make_group",
    "make_sample",
    "resolve",
    "score",
    "suite",
]

HOME: Final = {
    "ConformanceWarning": "as_tests",
    "FakeEngine": "fake_engine",
    "Finding": "finding",
    "Golden": "golden",
    "Suite": "suites",
    "conformance": "as_tests",
    "make_group": "samples",
    "make_sample": "samples",
    "resolve": "scoring",
    "score": "scoring",
    "suite": "suites",
}
"""Imported when asked for: pytest loads this package in every session of every project on the machine."""


def __getattr__(name: str) -> Any:  # Any: the public names are of many types
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
