"""The examples of docs/plugins.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slimrl import Sample, registry
from slimrl.registry import Options

PAGE = (Path(__file__).parents[3] / "docs/plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def sample(response: str) -> Sample:
    return Sample(0, 0, 0, "", [], label=7, response=response)


@pytest.mark.parametrize(("response", "value"), [("it is 7", 1.0), ("8", 0.0), ("7" + "." * 300, 0.0)])
def test_the_function_in_a_file_scores(tmp_path: Path, response: str, value: float) -> None:
    (tmp_path / "short.py").write_text(BLOCKS[0])
    score = registry.load([], warn=False).resolve("reward", f"{tmp_path}/short.py:score").make(Options())
    assert score(sample(response)) == value


def test_the_function_with_components_names_them(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("from slimrl import Sample\n" + BLOCKS[1])
    score = registry.load([], warn=False).resolve("reward", f"{tmp_path}/parts.py:score").make(Options())
    assert score(sample("7")) == {"score": 1.0, "right": 1.0, "brief": 1.0}


def test_the_package_offers_its_reward_by_name(install) -> None:
    install("rl-reward-short", {"short_reward": BLOCKS[2]})
    plugins = registry.load(warn=False)
    options = Options().with_defaults(plugins.catalogue.option_types)
    assert plugins.resolve("reward", "short").make(options)(sample("7")) == 1.0
