"""Folders that one run at a time writes into."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slimrl.claim import claimed
from slimrl.config import CkptConfig, Config, ObserveConfig
from slimrl.errors import UsageError
from slimrl.train import train

HOLDER = """
import sys, time
from pathlib import Path
from slimrl.claim import claimed
with claimed([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(600)
"""


def claim(*folders: Path) -> None:
    with claimed(folders):
        pass


def refused(said: str) -> pytest.RaisesExc[UsageError]:
    return pytest.raises(UsageError, match=said)


def test_a_folder_that_another_run_writes_into_is_refused_until_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with refused(r"saved: another run is writing there; .* --run-dir or --save"):
            claim(tmp_path / "run", tmp_path / "saved")
        claim(tmp_path / "run")
        os.kill(other.pid, signal.SIGKILL)
    claim(tmp_path / "saved", tmp_path / "saved")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(r"file/saved cannot be made: Not a directory; name another folder"):
        claim(tmp_path / "file" / "saved")


@pytest.mark.parametrize("held", ["run", "saved"])
def test_a_second_run_changes_nothing_of_what_the_first_has_written(held: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 7}\n')
    ckpt = CkptConfig(save=tmp_path / "saved", load=tmp_path / "saved")
    config = replace(Config(), ckpt=ckpt, observe=ObserveConfig(run_dir=tmp_path / "run"))
    nothing: Any = None
    plan: Any = SimpleNamespace(device="cpu")
    with claimed([tmp_path / held]), pytest.raises(UsageError, match=f"{held}: another run is writing there"):
        train(config, plan, nothing, {})
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 7}\n'
