"""Runs whose trainer is two processes, on one machine or on two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "flags",
    [("--use-distributed-optimizer",), ("--tensor-model-parallel-size", "2", "--sequence-parallel")],
    ids=["data parallel", "tensor parallel"],
)
def test_the_engine_gets_the_weights_of_two_trainer_processes(
    flags: tuple[str, ...], make_job: Callable[..., Any]
) -> None:
    job = make_job(num_rollout="3", rollout_batch_size="4", n_samples_per_prompt="4")
    two = job.run("--actor-num-gpus-per-node", "2", *flags, "--save", "saved")
    assert two.returncode == 0, two.stderr
    # equal only if the engine has what the processes have together
    assert all(row["train/log_prob_abs_diff_max"] < 1e-3 for row in job.metrics() if "train/grad_norm" in row)
    assert (job.folder / "saved").is_dir()


@pytest.mark.long
def test_each_process_writes_its_pieces_beside_the_steps_and_one_process_goes_on_with_them(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(num_rollout="3", rollout_batch_size="4", n_samples_per_prompt="4")
    flags = ("--ckpt-format", "torch_dist", "--async-save", "--save", "saved", "--save-interval", "1")
    two = job.run("--actor-num-gpus-per-node", "2", "--use-distributed-optimizer", *flags, "--save-hf", "hf")
    assert two.returncode == 0, two.stderr
    checkpoint = job.folder / "saved" / "iter_0000003"
    assert len(list((checkpoint / "optimizer").glob("*.distcp"))) == 2
    assert (job.folder / "hf" / "model.safetensors").is_file()
    content = (checkpoint / "optimizer" / "__1_0.distcp").read_bytes()
    (checkpoint / "optimizer" / "__1_0.distcp").write_bytes(content[:-1])
    one = job.run("--load", "saved", "--num-rollout", "4", *flags)
    assert one.returncode == 0, one.stderr
    assert "iter_0000003 is damaged: optimizer/__1_0.distcp changed since it was written" in one.stderr
    assert [row["step"] for row in job.metrics() if "train/grad_norm" in row] == [0, 1, 2, 3]


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 2**27}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **small})
cluster.add_node(num_cpus=1, **small)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def two_machines() -> Iterator[str]:
    """The address of a Ray cluster with two nodes, both here and on loopback."""
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", CLUSTER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "no cluster"
        yield address
        process.communicate("")


@pytest.mark.long
def test_trainer_processes_on_two_machines_train_one_model(
    two_machines: str, make_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    job = make_job(num_rollout="2", rollout_batch_size="4", n_samples_per_prompt="4")
    ran = job.run("--ray-address", two_machines, "--actor-num-nodes", "2", "--save", "saved")
    assert ran.returncode == 0, ran.stderr
    rows = [row for row in job.metrics() if "train/grad_norm" in row]
    assert len(rows) == 2
    assert all(row["train/log_prob_abs_diff_max"] < 1e-3 for row in rows)
    resumed = job.run(
        *("--ray-address", two_machines, "--actor-num-nodes", "2", "--load", "saved", "--num-rollout", "3"),
    )
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in job.metrics() if "train/grad_norm" in row] == [0, 1, 2]
    assert "loaded" in (job.folder / "run" / "logs" / "trainer-1.log").read_text()
    assert (job.folder / "saved").is_dir()


def test_a_layout_that_does_not_fit_is_refused_before_anything_starts(make_job: Callable[..., Any]) -> None:
    job = make_job(num_rollout="1")
    refused = job.run("--actor-num-gpus-per-node", "3", "--tensor-model-parallel-size", "3", "--dry-run")
    assert refused.returncode == 2
    assert "--tensor-model-parallel-size 3 does not divide the model's 4 attention heads" in refused.stderr
