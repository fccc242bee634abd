"""Checkpoint folders: whole or absent, the newest found."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl.checkpoints import LATEST, find_start, latest_checkpoint, new_checkpoint
from slimrl.errors import CheckpointError


def save(folder: Path, step: int, text: str = "x") -> None:
    with new_checkpoint(folder, step, folder.parent) as scratch:
        (scratch / "file").write_text(text)


def test_the_newest_whole_checkpoint_is_found_with_its_step_and_run(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save(tmp_path / "c", step)
    start = find_start(tmp_path / "c")
    assert start.step == 10
    assert start.run == tmp_path
    assert start.checkpoint == tmp_path / "c" / "iter_0000010"


def test_an_interrupted_save_leaves_the_one_before_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(RuntimeError), new_checkpoint(tmp_path, 2, tmp_path) as scratch:
        (scratch / "file").write_text("half")
        raise RuntimeError
    assert find_start(tmp_path).step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_0000001", LATEST]


def test_a_folder_that_was_killed_while_written_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".iter_0000002.tmp").mkdir()
    (tmp_path / "iter_0000003").mkdir()
    assert find_start(tmp_path).step == 1
    save(tmp_path, 2)
    assert find_start(tmp_path).step == 2


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, "old")
    save(tmp_path, 1, "new")
    assert (tmp_path / "iter_0000001" / "file").read_text() == "new"


def test_an_empty_or_absent_folder_means_a_start_from_nothing(tmp_path: Path) -> None:
    assert find_start(tmp_path).checkpoint is None
    assert find_start(tmp_path / "absent").step == 0
    assert find_start(None).step == 0


def test_a_single_checkpoint_can_be_named_itself(tmp_path: Path) -> None:
    save(tmp_path, 4)
    assert latest_checkpoint(tmp_path / "iter_0000004") == tmp_path / "iter_0000004"


def test_a_missing_checkpoint_that_the_folder_speaks_of_is_an_error(tmp_path: Path) -> None:
    (tmp_path / LATEST).write_text("7\n")
    with pytest.raises(CheckpointError, match="says step 7"):
        find_start(tmp_path)


def test_a_damaged_marker_names_the_folder_to_remove(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "iter_0000001" / "complete.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        find_start(tmp_path)
