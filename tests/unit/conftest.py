"""Installed packages that exist for one test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Install = Callable[[str, Mapping[str, str]], None]

OFFERS_REWARD = """
from slimrl import hookimpl
def make(options):
    return lambda sample: 1.0
@hookimpl
def slimrl_offer_rewards():
    return {"NAME": make}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(distribution, {module name: source}): a distribution whose modules are all plugins."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def install(distribution: str, modules: Mapping[str, str]) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{module} = {module}\n" for module in modules]
        (info / "entry_points.txt").write_text("[slimrl]\n" + "".join(lines))
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(source)

    yield install
    for module in set(sys.modules) - before:
        if getattr(sys.modules[module], "__file__", None) and str(tmp_path) in str(sys.modules[module].__file__):
            del sys.modules[module]


@pytest.fixture
def reward_plugin() -> Callable[[str], str]:
    """Source of a module that offers one reward of a name."""
    return lambda name: OFFERS_REWARD.replace("NAME", name)
