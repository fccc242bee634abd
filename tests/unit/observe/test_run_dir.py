"""The run folder: what is written, what a resumed run forgets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from slimrl.observe.curve import draw_reward_curve
from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir
from slimrl.types import Group, Sample, Score, Status, Verdict


def make(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.create()
    return run


def test_a_resumed_run_forgets_what_it_will_write_again(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in range(4):
        run.log_metrics(step, {"a": step / 2})
        (run.rollouts / f"{step:06d}.parquet").touch()
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "a"')  # cut short by a kill
    run.forget_from(2)
    assert run.read_metrics() == [{"step": 0, "a": 0.0}, {"step": 1, "a": 0.5}]
    assert sorted(p.name for p in run.rollouts.iterdir()) == ["000000.parquet", "000001.parquet"]


def test_every_sample_of_a_step_is_in_its_file(tmp_path: Path) -> None:
    run = make(tmp_path)
    scored = Sample(0, 0, 0, [{"role": "user", "content": "?"}], [1, 2], label={"x": 1}, status=Status.COMPLETED)
    scored.append([3, 4], [-0.5, -1.5], [0, 1], text="hi")
    scored.score = Score.scored(0.5, components={"length": 2.0}, seconds=0.01)
    failed = Sample(0, 1, 1, "?", [1, 2], status=Status.FAILED, reason="engine said no")
    path = write_rollout(run.rollouts, 7, [Group(0, [scored, failed], Verdict(True))], {0: 1.25})
    rows = pq.read_table(path).to_pylist()
    assert path.name == "000007.parquet"
    assert rows[0]["tokens"] == [3, 4]
    assert rows[0]["advantage"] == 1.25
    assert json.loads(rows[0]["components"]) == {"length": 2.0}
    assert rows[1]["status"] == "failed"
    assert rows[1]["value"] is None
    assert rows[1]["advantage"] is None


def test_the_curve_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    rows = [{"step": 0, "eval/sums": 0.1, "eval/sums-truncated_ratio": 0.0}, {"step": 0, "rollout/reward_mean": 0.2}]
    draw_reward_curve(rows, path)
    assert path.read_bytes().startswith(b"\x89PNG")
