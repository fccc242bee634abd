"""The trainer's other processes where a machine does not see what they need."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, cast

import pytest

from slimrl.cluster.trainer_actors import FollowerActor
from slimrl.config import CkptConfig
from slimrl.errors import UsageError
from slimrl.observe.run_dir import RunDir


class Settings:
    """What is read before anything else."""

    def __init__(self, model: Path) -> None:
        self.ckpt = CkptConfig(hf_checkpoint=model)


@pytest.mark.parametrize("missing", ["run", "model"])
def test_a_folder_that_a_machine_does_not_see_is_named_with_the_machine(tmp_path: Path, missing: str) -> None:
    run = RunDir(tmp_path / "run")
    if missing != "run":
        run.create()
    if missing != "model":
        (tmp_path / "model").mkdir()
    settings = cast(Any, Settings(tmp_path / "model"))
    with pytest.raises(UsageError, match=rf"{missing}.* is not there on machine {socket.gethostname()}; .*share"):
        FollowerActor(settings, cast(Any, None), run.path, rank=3)
