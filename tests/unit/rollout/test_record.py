"""The record of a run: a plugin's trackers get what the run folder gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimrl.config import GrpoConfig, RolloutConfig
from slimrl.errors import PluginError
from slimrl.observe.run_dir import RunDir
from slimrl.registry import Options, PluginReferences, PluginSet, resolve_all
from slimrl.rollout.record import Record

TRACKERS = """
import json
from pathlib import Path

class Tracker:
    def __init__(self, name, breaks_at=None):
        self.file, self.breaks_at = Path(__file__).with_name(name), breaks_at
    def log(self, step, metrics):
        if step == self.breaks_at:
            raise ConnectionError("nobody there")
        self.say([step, dict(metrics)])
    def close(self):
        self.say("closed")
    def say(self, what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")

good, bad = Tracker("good"), Tracker("bad", breaks_at=1)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> PluginSet:
    file = tmp_path / "trackers.py"
    file.write_text(TRACKERS)
    trackers = [f"{file}:bad", f"{file}:good"]
    references = PluginReferences.from_config(RolloutConfig(rm_type="f1"), GrpoConfig(), trackers=trackers)
    return resolve_all(references, Options([GrpoConfig()]))


def told(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_trackers_get_every_steps_metrics_and_one_that_fails_ends_no_run(plugins: PluginSet, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    record = Record(run, plugins, use_tensorboard=False, start=0)
    for step in range(3):
        record.metrics(step, {"train/loss": step / 2})
    record.close()
    assert told(tmp_path / "good") == [
        [0, {"train/loss": 0.0}],
        [1, {"train/loss": 0.5}],
        [2, {"train/loss": 1.0}],
        "closed",
    ]
    assert told(tmp_path / "bad") == [[0, {"train/loss": 0.0}]]
    (event,) = run.read_events()
    assert (event["event"], event["tracker"]) == ("tracker_failed", f"{tmp_path}/trackers.py:bad")
    assert "nobody there" in event["reason"]
    assert [row["step"] for row in run.read_metrics()] == [0, 1, 2]


def test_trackers_are_in_the_lock_and_checked_before_the_run(plugins: PluginSet, tmp_path: Path) -> None:
    assert [row["name"] for row in plugins.lock() if row["kind"] == "tracker"] == ["bad", "good"]
    wrong = PluginReferences.from_config(RolloutConfig(rm_type="f1"), GrpoConfig(), trackers=["wandb"])
    with pytest.raises(PluginError, match=r"there is no tracker 'wandb' \(--tracker\)"):
        resolve_all(wrong, Options([GrpoConfig()]))
