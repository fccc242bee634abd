"""The teacher of a run: which checkpoint it is, whether it fits, and rewards beside it, before anything starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.checkpoints import new_checkpoint
from slimrl.cli.train import Prepared, prepare
from slimrl.config.plan import format_plan
from slimrl.errors import UsageError

Check = Callable[..., Prepared]
URL = "http://127.0.0.1:30000"
ENGINE = {"opd_type": "sglang", "opd_teacher_url": URL}


@pytest.fixture
def check(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check a run without any reward and with --use-opd; keyword arguments are flags."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"input": "1", "label": "2"}\n' * 4)

    def run(**flags: Any) -> Prepared:
        own = {
            "hf_checkpoint": tiny_checkpoint,
            "prompt_data": "prompts.jsonl",
            "rollout_batch_size": 2,
            "n_samples_per_prompt": 1,
            "num_rollout": 1,
            "rollout_max_response_len": 4,
            **flags,
        }
        pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in own.items()]
        return prepare(["--use-opd", *(word for pair in pairs for word in pair)])

    return run


def checkpoint_of_ours(folder: Path, source: Path, *steps: int) -> None:
    for step in steps:
        with new_checkpoint(folder, step, folder) as scratch:
            shutil.copytree(source, scratch / "model")
            (scratch / "trainer.json").write_text("{}")


def other_shape(folder: Path, source: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_a_teacher_needs_no_reward(check: Check) -> None:
    prepared = check(**ENGINE)
    assert not prepared.plugins.rewards.is_required
    assert prepared.plugins.rewards.choose({}) == ()
    assert f"teacher     {URL}" in format_plan(prepared.plan, prepared.config)


def test_an_evaluation_needs_a_reward_all_the_same(check: Check) -> None:
    Path("set.toml").write_text('[datasets.held]\npath = "prompts.jsonl"\n')
    with pytest.raises(UsageError, match=r"prompts.jsonl:1: no reward: an evaluation needs one"):
        check(**ENGINE, eval_interval=1, eval_config="set.toml")
    check(**ENGINE, eval_interval=1, eval_config="set.toml", rm_type="math")


@pytest.mark.parametrize(
    "name",
    [
        "check_reward_nonzero_std",
        "accuracy_band",
        "slime.rollout.filter_hub.dynamic_sampling_filters.check_reward_nonzero_std",
    ],
)
def test_a_filter_of_rewards_is_refused_where_there_are_none(check: Check, name: str) -> None:
    with pytest.raises(UsageError, match=f"--dynamic-sampling-filter-path {name} compares rewards"):
        check(**ENGINE, dynamic_sampling_filter_path=name)
    check(**ENGINE, dynamic_sampling_filter_path=name, rm_type="math")
    check(**ENGINE, dynamic_sampling_filter_path="truncation")


def test_a_teacher_in_the_trainer_is_a_folder_or_the_checkpoint_of_a_step(check: Check, tiny_checkpoint: Path) -> None:
    prepared = check(opd_type="megatron", opd_teacher_load=tiny_checkpoint)
    assert prepared.config.grpo.opd_teacher_load == tiny_checkpoint
    parts = next(process.parts for process in prepared.plan.processes if process.name == "trainer")
    assert parts["teacher"] == parts["weights"]
    checkpoint_of_ours(Path("saved").absolute(), tiny_checkpoint, 2, 4)
    for flags, name in (({}, "iter_0000004"), ({"opd_teacher_ckpt_step": 2}, "iter_0000002")):
        grpo = check(opd_type="megatron", opd_teacher_load="saved", **flags).config.grpo
        assert (grpo.opd_teacher_load, grpo.opd_teacher_ckpt_step) == (Path("saved") / name, None)
    with pytest.raises(UsageError, match="--opd-teacher-load saved: --opd-teacher-ckpt-step 3: saved holds no"):
        check(opd_type="megatron", opd_teacher_load="saved", opd_teacher_ckpt_step=3)


def test_a_teacher_of_another_shape_is_refused_with_the_numbers(check: Check, tiny_checkpoint: Path) -> None:
    longer = other_shape(Path("longer"), tiny_checkpoint, max_position_embeddings=128)
    check(opd_type="megatron", opd_teacher_load=longer)
    other = other_shape(Path("other"), tiny_checkpoint, num_hidden_layers=7, intermediate_size=256)
    with pytest.raises(UsageError) as raised:
        check(opd_type="megatron", opd_teacher_load=other)
    said = str(raised.value)
    assert "--opd-teacher-load other is a model of another shape than the policy" in said
    assert "num_layers 7, not 2, ffn_hidden_size 256, not 128" in said
    assert "--opd-type sglang --opd-teacher-url" in said


def test_adapters_alone_are_no_teacher(check: Check) -> None:
    Path("adapters/adapter").mkdir(parents=True)
    with pytest.raises(UsageError, match="--opd-teacher-load adapters holds adapters alone"):
        check(opd_type="megatron", opd_teacher_load="adapters")
