"""Which reward scores which sample."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl import Group, Sample, registry
from slimrl.config import RolloutConfig
from slimrl.errors import PluginError
from slimrl.registry import Options, RewardReferences, resolve_rewards
from slimrl.registry.rewards import SetReference
from slimrl.scoring import Scorer, ScoringSettings

CONSTANTS = "def one(sample): return 1.0\ndef two(sample): return {'a': 2.0, 'b': 20.0}\n"


@pytest.fixture
def constants(tmp_path: Path) -> str:
    path = tmp_path / "constants.py"
    path.write_text(CONSTANTS)
    return str(path)


def scored(references: RewardReferences, samples: list[Sample], source: str = "") -> list[Any]:
    table = resolve_rewards(registry.load(warn=False), references)

    async def go() -> None:
        async with Scorer(table, Options(), ScoringSettings(num_workers=1)) as scorer:
            await scorer.score(Group(0, samples, source=source))

    asyncio.run(go())
    return [sample.score for sample in samples]


@pytest.fixture
def rows(make_sample: Callable[..., Sample]) -> list[Sample]:
    """The same right answer, with other words for its reward each."""
    named: list[Any] = [{"rm_type": "math"}, {"rm_type": " f1 "}, {}, {"rm_type": None}, {"rm_type": "maht"}]
    return [make_sample(r"so \boxed{4}", label="4", metadata=metadata) for metadata in named]


def test_a_row_that_names_its_reward_is_scored_by_it_and_the_others_by_the_flag(
    rows: list[Sample], constants: str
) -> None:
    config = RolloutConfig(rm_type=f"{constants}:one")
    found = scored(RewardReferences.from_config(config, ["math", "f1", "maht"]), rows)
    assert [score.by for score in found[:4]] == ["math", "f1", "one", "one"]
    assert found[4].status == "error"
    assert "there is no reward 'maht'" in found[4].reason
    assert "did you mean 'math'" in found[4].reason


@pytest.mark.parametrize("given", [{"custom_rm_path": "PATH:one", "reward": ("f1",)}, {"reward": ("PATH:one=1",)}])
def test_a_path_and_a_mix_go_before_what_rows_name(given: dict[str, Any], rows: list[Sample], constants: str) -> None:
    words = {
        key: value.replace("PATH", constants)
        if isinstance(value, str)
        else tuple(w.replace("PATH", constants) for w in value)
        for key, value in given.items()
    }
    found = scored(RewardReferences.from_config(RolloutConfig(rm_type="math", **words), ["math", "f1", "maht"]), rows)
    assert [score.by for score in found] == ["one"] * 5


def test_where_rows_name_every_reward_no_flag_is_needed(rows: list[Sample]) -> None:
    found = scored(RewardReferences.from_config(RolloutConfig(), ["math", "f1"]), rows[:3])
    assert [score.status for score in found] == ["scored", "scored", "error"]
    assert "--rm-type" in found[2].reason


def test_without_any_reward_the_flags_that_give_one_are_named() -> None:
    with pytest.raises(PluginError, match="--rm-type NAME or --custom-rm-path"):
        RewardReferences.from_config(RolloutConfig(rm_type=" "))


def test_an_evaluation_set_with_a_reward_of_its_own_is_scored_by_it(rows: list[Sample], constants: str) -> None:
    sets = [SetReference("held-out", f"{constants}:two", "b"), SetReference("keyed", None, "b")]
    references = RewardReferences.from_config(
        RolloutConfig(custom_rm_path=f"{constants}:two", reward_key="a"), sets=sets
    )
    for source, value in (("", 2.0), ("held-out", 20.0), ("keyed", 20.0), ("other", 2.0)):
        (score,) = scored(references, [rows[0]], source)
        assert score.value == value
        rows[0].score = None


def test_an_evaluation_sets_unknown_reward_is_an_error_at_the_start() -> None:
    references = RewardReferences.from_config(RolloutConfig(rm_type="math"), sets=[SetReference("held-out", "maht")])
    with pytest.raises(PluginError, match=r"evaluation set 'held-out': there is no reward 'maht'"):
        resolve_rewards(registry.load(warn=False), references)


def test_numbers_and_mappings_may_be_mixed_under_one_reward_key(rows: list[Sample], constants: str) -> None:
    config = RolloutConfig(reward=(f"{constants}:one", f"{constants}:two=0.5"), reward_key="a")
    (score,) = scored(RewardReferences.from_config(config), rows[:1])
    assert score.value == 2.0
    assert score.components == {"one": 1.0, "two": 2.0, "two/a": 2.0, "two/b": 20.0}
