"""Checkpoint folders: whole or absent, the newest undamaged one found."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimrl import checkpoints
from slimrl.checkpoints import (
    COMPLETE,
    LATEST,
    Start,
    check_whole,
    find_start,
    latest_checkpoint,
    new_checkpoint,
    new_folder,
)
from slimrl.errors import CheckpointError


def save(folder: Path, step: int, text: str = "x", **settings: object) -> None:
    with new_checkpoint(folder, step, folder.parent, **settings) as scratch:  # type: ignore[arg-type]
        (scratch / "file").write_text(text)
        (scratch / "model").mkdir()
        (scratch / "model" / "weights").write_text(text * 1000)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("iter_")) for path in folder.glob("iter_*"))


def test_the_checkpoint_written_last_is_found_with_its_step_and_run(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        save(tmp_path / "c", step)
    start = find_start(tmp_path / "c")
    assert start.step == 10
    assert start.run == tmp_path
    assert start.checkpoint == tmp_path / "c" / "iter_0000010"
    assert start.passed_over == ()


def test_after_going_back_a_step_the_later_ones_are_no_longer_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    assert find_start(tmp_path, 2).step == 2
    save(tmp_path, 4, "again")
    start = find_start(tmp_path)
    assert start.step == 4
    assert start.checkpoint is not None
    assert (start.checkpoint / "file").read_text() == "again"


def test_an_interrupted_save_leaves_the_one_before_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(RuntimeError), new_checkpoint(tmp_path, 2, tmp_path) as scratch:
        (scratch / "file").write_text("half")
        raise RuntimeError
    assert find_start(tmp_path).step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_0000001", LATEST]


def test_a_folder_that_was_killed_while_written_is_ignored_and_later_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".iter_0000002.tmp").mkdir()
    (tmp_path / f".{LATEST}.1234.tmp").touch()
    (tmp_path / "iter_0000003").mkdir()
    assert find_start(tmp_path).step == 1
    save(tmp_path, 4)
    assert find_start(tmp_path).step == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", [".iter_0000001.tmp", ".iter_0000001.old"])
def test_a_checkpoint_that_was_whole_but_for_its_name_is_used_and_gets_it(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    (tmp_path / "iter_0000001").rename(tmp_path / name)
    start = find_start(tmp_path)
    assert (start.step, start.checkpoint) == (1, tmp_path / name)
    save(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


def test_a_newer_checkpoint_under_its_temporary_name_takes_the_place_of_the_older(tmp_path: Path) -> None:
    save(tmp_path, 1, "old")
    save(tmp_path / "other", 1, "new")
    (tmp_path / "other" / "iter_0000001").rename(tmp_path / ".iter_0000001.tmp")
    start = find_start(tmp_path)
    assert start.checkpoint is not None
    assert (start.checkpoint / "file").read_text() == "new"
    save(tmp_path, 2)
    assert (tmp_path / "iter_0000001" / "file").read_text() == "new"


def test_a_clock_that_went_back_makes_no_older_checkpoint_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 1)
    said = json.loads((tmp_path / "iter_0000001" / COMPLETE).read_text())
    said["time_ns"] += 10**15
    (tmp_path / "iter_0000001" / COMPLETE).write_text(json.dumps(said))
    save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert find_start(tmp_path).step == 3


def test_the_new_one_is_on_the_disk_with_its_names_before_an_older_one_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    to_disk: dict[str, bool] = {}
    fsync = os.fsync

    def record(opened: int) -> None:
        path = Path(f"/proc/self/fd/{opened}").readlink().relative_to(tmp_path)
        to_disk[str(path)] = (tmp_path / "iter_0000001").exists()
        fsync(opened)

    monkeypatch.setattr(os, "fsync", record)
    save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]
    names = ("file", "model/weights", "model", COMPLETE)
    wanted = {*(f".iter_0000002.tmp/{name}" for name in names), ".iter_0000002.tmp", "."}
    assert {path for path, before in to_disk.items() if before} >= wanted


@pytest.mark.parametrize("when", ["before its files are read", "after"])
def test_a_checkpoint_that_is_deleted_while_it_is_looked_at_gives_way_to_the_newer_one(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    checksums = checkpoints._checksums

    def overtaken(folder: Path) -> dict[str, str]:
        is_looked_at = folder.name == "iter_0000001"
        found = checksums(folder) if when == "after" or not is_looked_at else {}
        if is_looked_at:
            save(tmp_path, 2, keep=1)
        return found or checksums(folder)

    monkeypatch.setattr(checkpoints, "_checksums", overtaken)
    start = find_start(tmp_path)
    assert (start.step, start.passed_over) == (2, ())


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, "old")
    save(tmp_path, 1, "new")
    assert (tmp_path / "iter_0000001" / "file").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_0000001", LATEST]


def test_an_empty_or_absent_folder_means_a_start_from_nothing(tmp_path: Path) -> None:
    assert find_start(tmp_path).checkpoint is None
    assert find_start(tmp_path / "absent").step == 0
    assert find_start(None).step == 0


def test_a_single_checkpoint_can_be_named_itself(tmp_path: Path) -> None:
    save(tmp_path, 4)
    assert latest_checkpoint(tmp_path / "iter_0000004") == tmp_path / "iter_0000004"
    assert find_start(tmp_path / "iter_0000004", 4).step == 4


def test_a_missing_checkpoint_that_the_folder_speaks_of_is_an_error(tmp_path: Path) -> None:
    (tmp_path / LATEST).write_text("7\n")
    with pytest.raises(CheckpointError, match="says step 7"):
        find_start(tmp_path)


def damage(checkpoint: Path, how: str) -> None:
    weights = checkpoint / "model" / "weights"
    if how == "truncated":
        weights.write_text(weights.read_text()[:-1])
    elif how == "one bit":
        content = bytearray(weights.read_bytes())
        content[7] ^= 1
        weights.write_bytes(content)
    elif how == "missing":
        weights.unlink()
    elif how == "marker":
        (checkpoint / COMPLETE).write_text("{")
    else:
        (checkpoint / COMPLETE).write_text(json.dumps({"step": 2}))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "model/weights changed since it was written"),
        ("one bit", "model/weights changed since it was written"),
        ("missing", "it lacks model/weights"),
        ("marker", "complete.json cannot be read"),
        ("marker without checksums", "complete.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path, how: str, reason: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / "iter_0000002", how)
    start = find_start(tmp_path)
    assert start.step == 1
    assert len(start.passed_over) == 1
    assert f"{tmp_path / 'iter_0000002'} is damaged: {reason}" in start.passed_over[0]
    with pytest.raises(CheckpointError, match=f"{reason}.*name another step"):
        find_start(tmp_path, 2)
    with pytest.raises(CheckpointError, match=reason):
        find_start(tmp_path / "iter_0000002")


def test_where_all_are_damaged_nothing_is_started_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        damage(tmp_path / f"iter_000000{step}", "truncated")
    with pytest.raises(CheckpointError, match=r"iter_0000002 is damaged.*iter_0000001 is damaged.*remove it"):
        find_start(tmp_path)


def test_a_step_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    with pytest.raises(CheckpointError, match=r"--ckpt-step 7: .* there: 5, 10"):
        find_start(tmp_path, 7)


def test_only_the_last_ones_are_kept_once_the_new_one_is_whole(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [2, 3]
    with pytest.raises(RuntimeError), new_checkpoint(tmp_path, 4, tmp_path, keep=1):
        raise RuntimeError
    assert steps(tmp_path) == [2, 3]


def test_a_checkpoint_without_its_optimizer_is_not_resumed_but_can_be_looked_at(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2, resumable=False)
    with pytest.raises(CheckpointError, match=r"saved with --no-save-optim.*--ref-load .*iter_0000002"):
        find_start(tmp_path)
    assert find_start(tmp_path, resume=False).step == 2
    assert find_start(tmp_path, 1).step == 1


def megatron(folder: Path, name: str, said: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / ".metadata").touch()
    (folder / LATEST).write_text(said)
    return folder


@pytest.mark.parametrize(("name", "said"), [("release", "release"), ("iter_0000040", "40\n")])
def test_of_a_folder_of_megatron_the_weights_are_taken(name: str, said: str, tmp_path: Path) -> None:
    folder = megatron(tmp_path, name, said)
    assert find_start(folder) == Start(weights=folder / name)
    with pytest.raises(CheckpointError, match="--ckpt-step 7"):
        find_start(folder, 7)


def test_a_step_of_a_folder_of_megatron_can_be_named(tmp_path: Path) -> None:
    folder = megatron(megatron(tmp_path, "iter_0000020", "20"), "iter_0000040", "40")
    assert find_start(folder, 20).weights == folder / "iter_0000020"


def test_weights_of_a_damaged_checkpoint_are_refused_by_the_flags_name(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    whole = tmp_path / "iter_0000001"
    check_whole(whole, "--ref-load")
    check_whole(whole / "model", "--ref-load")  # a folder of something else is not ours to check
    damage(whole, "one bit")
    with pytest.raises(CheckpointError, match=r"--ref-load .*iter_0000001 is damaged: model/weights changed"):
        check_whole(whole, "--ref-load")
    with pytest.raises(CheckpointError, match=r"folder of checkpoints; name one of them: --ref-load .*iter_0000002"):
        check_whole(tmp_path, "--ref-load")


SAVER = """
import sys
from pathlib import Path
from slimrl.checkpoints import find_start, new_checkpoint
folder = Path(sys.argv[1])
step = find_start(folder).step
while True:
    step += 1
    for again in range(2):  # the same step twice: one takes the other's place
        with new_checkpoint(folder, step, folder, keep=2) as scratch:
            for name in "abc":
                (scratch / name).write_bytes(step.to_bytes(4, "little") * 50_000)
        print(step, flush=True)
"""


def test_a_save_that_is_killed_at_any_moment_leaves_a_whole_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    draw = random.Random(0)
    reached = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = process.stdout.readline()  # the first save of this process is done
        assert said, process.stderr and process.stderr.read()
        time.sleep(draw.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        lines = (said + process.communicate()[0]).split()
        start = find_start(tmp_path)
        assert start.passed_over == ()
        assert start.step >= int(lines[-1]) > reached
        reached = start.step
        assert start.checkpoint is not None
        assert all(
            (start.checkpoint / name).read_bytes() == start.step.to_bytes(4, "little") * 50_000 for name in "abc"
        )
    assert len(steps(tmp_path)) <= 3


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "out" / "hf"
    for text in ("one", "two"):
        with new_folder(final) as scratch:
            (scratch / "file").write_text(text)
    with pytest.raises(RuntimeError), new_folder(final) as scratch:
        raise RuntimeError
    assert (final / "file").read_text() == "two"
    assert [path.name for path in final.parent.iterdir()] == ["hf"]


def test_a_folder_whose_replacing_was_killed_is_there_again_before_a_new_one_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "hf"
    with new_folder(final) as scratch:
        (scratch / "file").write_text("one")
    final.rename(tmp_path / ".hf.old")
    with pytest.raises(RuntimeError), new_folder(final) as scratch:
        raise RuntimeError
    assert (final / "file").read_text() == "one"


def test_a_copied_folder_of_checkpoints_is_as_good_as_the_first(tmp_path: Path) -> None:
    save(tmp_path / "a", 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert find_start(tmp_path / "b").checkpoint == tmp_path / "b" / "iter_0000003"
