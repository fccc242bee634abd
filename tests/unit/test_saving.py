"""Checkpoints written beside the run: nothing is lost, no error is either, and the run does not wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slimrl.background import Background
from slimrl.checkpoints import NewCheckpoint, find_start, new_checkpoint
from slimrl.cluster.trainer_actors import write_snapshot
from slimrl.config import CkptConfig
from slimrl.errors import CheckpointError
from slimrl.observe.run_dir import RunDir
from slimrl.saving import Saving


class FakeSnapshot:
    """What a trainer had, written when the gate opens."""

    def __init__(self, value: str, gate: threading.Event, error: OSError | None = None) -> None:
        self._value = value
        self._gate = gate
        self._error = error

    def write(self, folder: Path) -> None:
        (folder / "begun").touch()
        assert self._gate.wait(60)
        if self._error is not None:
            raise self._error
        (folder / "value").write_text(self._value)

    def write_hf(self, folder: Path) -> None:
        (folder / "config.json").write_text(self._value)


class FakeCrew:
    """A crew whose weights are a text."""

    def __init__(self) -> None:
        self.value = ""
        self.gate = threading.Event()
        self.error: OSError | None = None
        self._background = Background("save")

    def save(self, folder: Path) -> None:
        if self.error is not None:
            raise self.error
        (folder / "value").write_text(self.value)

    def save_hf(self, folder: Path) -> None:
        (folder / "config.json").write_text(self.value)

    def begin_save(self, new: NewCheckpoint, export: Path | None) -> None:
        snapshot = FakeSnapshot(self.value, self.gate, self.error)
        self._background.start(lambda: write_snapshot(snapshot, new, export))  # type: ignore[arg-type]

    def is_saved(self) -> bool:
        return self._background.is_done()

    def finish_save(self) -> None:
        self._background.finish()


Make = Callable[..., Saving]


@pytest.fixture
def crew() -> FakeCrew:
    return FakeCrew()


@pytest.fixture
def make_saving(tmp_path: Path, crew: FakeCrew) -> Make:
    def make(**flags: object) -> Saving:
        run = RunDir(tmp_path / "run")
        run.create()
        run.plugins_lock.write_text("[]")
        ckpt = CkptConfig(**{"async_save": True, **flags})  # type: ignore[arg-type]
        return Saving(crew, ckpt, tmp_path / "saved", run)

    return make


def events(tmp_path: Path) -> list[tuple[str, int]]:
    file = tmp_path / "run" / "events.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(event["event"], event["step"]) for event in found]


def test_the_run_goes_on_before_the_checkpoint_is_written(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    with make_saving(save_hf=str(tmp_path / "hf")) as saving:
        crew.value = "one"
        saving.save(1)
        crew.value = "two"  # the next step
        saving.look()
        assert find_start(tmp_path / "saved").checkpoint is None
        assert events(tmp_path) == []
        crew.gate.set()
    start = find_start(tmp_path / "saved")
    assert start.checkpoint is not None
    assert (start.checkpoint / "value").read_text() == (tmp_path / "hf" / "config.json").read_text() == "one"
    assert (start.checkpoint / "plugins.lock").read_text() == "[]"
    assert events(tmp_path) == [("checkpoint", 1), ("hf_checkpoint", 1)]


def test_a_save_waits_for_the_one_before_it(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    with make_saving() as saving:
        saving.save(1)
        opener = threading.Timer(0.1, crew.gate.set)
        opener.start()
        saving.save(2)
        opener.join()
        assert events(tmp_path) == [("checkpoint", 1)]
    assert find_start(tmp_path / "saved").step == 2
    assert events(tmp_path) == [("checkpoint", 1), ("checkpoint", 2)]


@pytest.mark.parametrize("where", ["next save", "next step", "end"])
def test_an_error_of_the_disk_comes_out_and_the_checkpoint_before_stays(
    where: str, tmp_path: Path, crew: FakeCrew, make_saving: Make
) -> None:
    saving = make_saving()
    crew.gate.set()
    saving.save(1)
    saving.finish()
    crew.error = OSError(28, "No space left on device")
    saving.save(2)
    with pytest.raises(CheckpointError, match=r"step 2 could not be written: .*No space left.*--save"):
        if where == "next save":
            saving.save(3)
        elif where == "end":
            saving.__exit__(None, None, None)
        else:
            while True:
                saving.look()
    assert find_start(tmp_path / "saved").step == 1
    assert not list((tmp_path / "saved").glob(".iter_*"))


def test_a_step_that_fails_does_not_lose_the_checkpoint_that_is_being_written(
    tmp_path: Path, crew: FakeCrew, make_saving: Make
) -> None:
    with pytest.raises(RuntimeError, match="the step"), make_saving() as saving:
        saving.save(1)
        crew.gate.set()
        raise RuntimeError("the step")
    assert find_start(tmp_path / "saved").step == 1


def test_a_checkpoint_that_is_lost_is_not_told_of(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    crew.error = OSError(28, "No space left on device")
    crew.gate.set()
    with pytest.raises(CheckpointError, match="step 1 could not be written"), make_saving() as saving:
        saving.save(1)
        while True:
            saving.look()
    assert events(tmp_path) == []


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    with pytest.raises(KeyboardInterrupt), make_saving() as saving:
        saving.save(1)
        raise KeyboardInterrupt
    assert find_start(tmp_path / "saved").checkpoint is None
    crew.gate.set()


def test_without_the_flag_it_is_written_at_once(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    saving = make_saving(async_save=False, save_hf=str(tmp_path / "hf"))
    crew.value = "one"
    saving.save(1)
    assert find_start(tmp_path / "saved").step == 1
    assert events(tmp_path) == [("checkpoint", 1), ("hf_checkpoint", 1)]


def test_a_full_disk_is_told_and_the_checkpoint_before_stays(tmp_path: Path, crew: FakeCrew, make_saving: Make) -> None:
    saving = make_saving(async_save=False)
    saving.save(1)
    crew.error = OSError(28, "No space left on device")
    with pytest.raises(CheckpointError, match=r"step 2 could not be written: .*No space left.*--save"):
        saving.save(2)
    assert find_start(tmp_path / "saved").step == 1
    assert not list((tmp_path / "saved").glob(".iter_*"))


WRITER = """
import sys, threading, time
from pathlib import Path
from slimrl.background import Background
from slimrl.checkpoints import NewCheckpoint
from slimrl.cluster.trainer_actors import write_snapshot
class Snapshot:
    def write(self, folder):
        (folder / "value").write_text("half")
        print("writing", flush=True)
        threading.Event().wait()
new = NewCheckpoint(Path(sys.argv[1]), 2, Path(sys.argv[1]), keep=1)
new.begin()
Background("save").start(lambda: write_snapshot(Snapshot(), new, None))
time.sleep(600)
"""


def test_a_run_that_is_killed_while_it_writes_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    with new_checkpoint(tmp_path, 1, tmp_path) as scratch:
        (scratch / "value").write_text("one")
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    start = find_start(tmp_path)
    assert (start.step, start.passed_over) == (1, ())
    with new_checkpoint(tmp_path, 2, tmp_path) as scratch:
        (scratch / "value").write_text("two")
    assert find_start(tmp_path).step == 2
    assert not list(tmp_path.glob(".iter_*"))
