"""Where a run begins, found before any process is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slimrl.checkpoints import Start, new_checkpoint
from slimrl.config import CkptConfig, ClusterConfig, Config, ObserveConfig, TrainedConfig
from slimrl.config.plan import has_cuda_device
from slimrl.errors import CheckpointError, ConfigError, UsageError
from slimrl.observe.run_dir import RunDir
from slimrl.run_start import check_gpu, find_run_folder, find_run_start


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


def test_weights_of_a_hugging_face_folder_are_a_start(tmp_path: Path) -> None:
    config = Config(ckpt=CkptConfig(load=tmp_path))
    assert find_run_start(config) == Start()
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).touch()
    assert find_run_start(config) == Start(weights=tmp_path)
    with new_checkpoint(tmp_path, 3, tmp_path):
        pass
    assert find_run_start(config).step == 3


def test_a_run_folder_or_an_adapter_is_no_folder_of_checkpoints_to_begin_anew_in(tmp_path: Path) -> None:
    with new_checkpoint(tmp_path / "run" / "checkpoints", 3, tmp_path / "run"):
        pass
    with pytest.raises(CheckpointError, match=r"run is a run folder; .*--load .*/run/checkpoints$"):
        find_run_start(Config(ckpt=CkptConfig(load=tmp_path / "run")))
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(CheckpointError, match="is an adapter of PEFT and no checkpoint to go on with"):
        find_run_start(Config(ckpt=CkptConfig(load=tmp_path)))


def test_weights_of_megatron_are_a_start_but_not_of_adapters(megatron: Path) -> None:
    config = Config(ckpt=CkptConfig(load=megatron))
    start = find_run_start(config)
    assert (start.step, start.checkpoint, start.weights) == (0, None, megatron / "iter_0000040")
    with pytest.raises(CheckpointError, match=r"train adapters on them with --ref-load .*iter_0000040 and no --load"):
        find_run_start(replace(config, trained=TrainedConfig(lora_rank=4)))


@pytest.fixture
def ended(tmp_path: Path) -> RunDir:
    """A run of one step that has ended."""
    run = RunDir(tmp_path / "run")
    run.create()
    run.event("start", step=0)
    run.log_metrics(0, {"train/loss": 1.0})
    run.event("end", step=1)
    return run


def of(run: RunDir, load: Path | None) -> Config:
    return Config(ckpt=CkptConfig(load=load), observe=ObserveConfig(run_dir=run.path))


def test_a_folder_that_holds_a_run_is_not_taken_for_another(ended: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a run is there already; give another folder"):
        find_run_folder(of(ended, None), Start())


def test_a_finished_run_is_not_deleted_because_there_is_nothing_to_load(ended: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a finished run is there; --load .*nowhere holds no checkpoint of it"):
        find_run_folder(of(ended, tmp_path / "nowhere"), Start())


def test_a_run_with_checkpoints_is_not_deleted_because_another_folder_was_loaded(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    with new_checkpoint(tmp_path / "saved", 3, run.path) as scratch:
        (scratch / "weights").write_text("all of them")
    run.log_metrics(0, {"train/loss": 1.0})
    run.event("checkpoint", step=3, folder=tmp_path / "saved")
    with pytest.raises(UsageError, match=r"goes on with --load .*saved is there; --load .*savd holds no"):
        find_run_folder(of(run, tmp_path / "savd"), Start())
    with pytest.raises(UsageError, match=r"a run is there already; give --load .*saved to go on with it"):
        find_run_folder(of(run, None), Start())
    going_on = of(run, tmp_path / "saved")
    assert find_run_folder(going_on, find_run_start(going_on)).path == run.path


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    run.log_metrics(0, {"train/loss": 1.0})
    run.event("start", step=0)
    assert find_run_folder(of(run, tmp_path / "saved"), Start()).path == run.path


@pytest.mark.skipif(has_cuda_device(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told_at_once_unless_a_cluster_may_have_it() -> None:
    here = Config(cluster=ClusterConfig(device="cuda"))
    with pytest.raises(ConfigError, match="--device cuda: this machine shows no NVIDIA device; set --device cpu"):
        check_gpu(here, "cuda")
    check_gpu(here, "cpu")
    check_gpu(replace(here, cluster=replace(here.cluster, ray_address="auto")), "cuda")
