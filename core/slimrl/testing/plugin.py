"""The pytest plugin: fixtures for plugin authors, and `pytest --slimrl-check REFERENCE`.

Loaded in every pytest session where slimrl is installed, so it imports nothing but pytest until it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from slimrl.testing import FakeEngine, Suite
    from slimrl.types import Group, Sample, Score


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options in a group of their own."""
    group = parser.getgroup("slimrl")
    group.addoption(
        "--slimrl-check",
        action="append",
        default=[],
        metavar="REFERENCE",
        help="also run slimrl's conformance checks of a plugin: a name, pkg.mod:attr or path/to/file.py:attr",
    )
    group.addoption(
        "--slimrl-check-kind",
        default="reward",
        metavar="KIND",
        help="what it is: reward, dynamic_filter, buffer_filter, generator or advantage",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds one test a check for each --slimrl-check."""
    references: list[str] = config.getoption("--slimrl-check")
    if not references:
        return
    from slimrl.errors import UsageError
    from slimrl.testing.suites import suite

    kind = config.getoption("--slimrl-check-kind").replace("-", "_")
    for reference in references:
        try:
            checks = suite(kind, reference)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        items += [
            CheckItem.from_parent(session, name=f"slimrl-check[{reference}-{name}]", checks=checks, check=name)
            for name in checks.names
        ]


class CheckItem(pytest.Item):
    """One conformance check as a test."""

    def __init__(self, *, checks: Suite, check: str, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]  # pytest's own: name and parent
        self._checks = checks
        self._check = check

    def runtest(self) -> None:
        """Pass, warn, skip or fail."""
        from slimrl.testing.as_tests import judge

        judge(self._checks, self._check)

    def reportinfo(self) -> tuple[str, None, str]:
        """Where it is said to be: nowhere but in its name."""
        return "slimrl", None, self.name


@pytest.fixture
def slimrl_sample() -> Callable[..., Sample]:
    """`slimrl_sample(response, label, metadata)`: a finished sample (`slimrl.testing.make_sample`)."""
    from slimrl.testing import make_sample

    return make_sample


@pytest.fixture
def slimrl_group() -> Callable[..., Group]:
    """`slimrl_group([1.0, 0.0, None])`: a group of scored samples or of responses (`slimrl.testing.make_group`)."""
    from slimrl.testing import make_group

    return make_group


@pytest.fixture
def slimrl_engine() -> FakeEngine:
    """An engine with seeded answers (`slimrl.testing.FakeEngine`)."""
    from slimrl.testing import FakeEngine

    return FakeEngine()


@pytest.fixture
def slimrl_score() -> Callable[..., Score]:
    """`slimrl_score(reference, response, label)`: the outcome of one sample (`slimrl.testing.score`)."""
    from slimrl.testing import score

    return score
