"""Where a run begins, found before any process is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slimrl.checkpoints import new_checkpoint
from slimrl.config import CkptConfig, Config, TrainedConfig
from slimrl.errors import CheckpointError
from slimrl.train import find_run_start


@pytest.fixture
def megatron(tmp_path: Path) -> Path:
    folder = tmp_path / "megatron"
    (folder / "iter_0000040").mkdir(parents=True)
    (folder / "iter_0000040" / ".metadata").touch()
    (folder / "latest_checkpointed_iteration.txt").write_text("40")
    return folder


@pytest.mark.parametrize("flag", ["ref_load", "critic_load"])
def test_a_damaged_checkpoint_to_begin_with_is_refused(flag: str, tmp_path: Path) -> None:
    with new_checkpoint(tmp_path, 3, tmp_path) as scratch:
        (scratch / "weights").write_text("all of them")
    folder = tmp_path / "iter_0000003"
    config = Config(ckpt=replace(CkptConfig(), **{flag: folder}))
    assert find_run_start(config).checkpoint is None
    (folder / "weights").write_text("all of")
    with pytest.raises(CheckpointError, match=rf"--{flag.replace('_', '-')} {folder} is damaged: weights changed"):
        find_run_start(config)


def test_weights_of_megatron_are_a_start_but_not_of_adapters(megatron: Path) -> None:
    config = Config(ckpt=CkptConfig(load=megatron))
    start = find_run_start(config)
    assert (start.step, start.checkpoint, start.weights) == (0, None, megatron / "iter_0000040")
    with pytest.raises(CheckpointError, match=r"train adapters on them with --ref-load .*iter_0000040 and no --load"):
        find_run_start(replace(config, trained=TrainedConfig(lora_rank=4)))
