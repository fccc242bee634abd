"""A run's steps replayed from its folder, untouched and after somebody changed something."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from slimrl.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_replay_agrees_with_the_run_and_finds_what_was_changed(
    make_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(num_rollout="3", save_interval="2", n_samples_per_prompt="4", over_sampling_batch_size="12")
    done = job.run("--dynamic-sampling-filter-path", "check_reward_nonzero_std")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.chdir(job.folder)

    # with the model in a process of its own, which Megatron leaves process groups in
    words = [job.command()[0], "-m", "slimrl", "replay", "run", "--json"]
    whole = subprocess.run(words, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    found = json.loads(whole.stdout)
    assert (found["agrees"], found["changed_plugins"]) == (True, [])
    names = ["batch metrics", "rewards", "verdicts", "advantages", "loss and gradient"]
    assert [(c["step"], c["name"]) for c in found["checks"]] == [(step, name) for step in range(3) for name in names]
    assert all(check["compared"] > 0 for check in found["checks"])

    def differing(*flags: str) -> tuple[int, set[str], list[str]]:
        code = main(["replay", "run", "--no-model", "--json", *flags])
        said = json.loads(capsys.readouterr().out)
        return code, {check["name"] for check in said["checks"] if check["different"]}, said["changed_plugins"]

    reward = job.folder / "reward.py"
    source = reward.read_text()
    reward.write_text(source.replace("/ 4", "/ 5"))
    code, names_, changed = differing("--step", "1")
    assert (code, names_) == (1, {"rewards"})
    assert [one.endswith("reward.py:score has another source than in the run") for one in changed] == [True]
    reward.write_text(source)

    path = job.folder / "run" / "rollouts" / "000001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["value"], rows[0]["kept"] = 7.0, not rows[0]["kept"]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    code, names_, changed = differing("--step", "1")
    assert (code, changed) == (1, [])
    assert {"batch metrics", "rewards", "advantages"} <= names_
    assert differing("--step", "0") == (0, set(), [])


def test_a_run_that_began_with_weights_of_megatron_is_replayed_with_its_checkpoints_in_pieces(
    make_job: Callable[..., Any],
) -> None:
    job = make_job(num_rollout="2", save_interval="1", save="saved", load="megatron", ckpt_format="torch_dist")
    other = shutil.copytree(job.checkpoint, job.folder / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    python = job.command()[0]
    words = [python, "-m", "slimrl", "convert", "--to", "megatron", "--input", "other", "--output", "megatron"]
    assert subprocess.run(words, cwd=job.folder, capture_output=True).returncode == 0
    done = job.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "megatron/release is of Megatron: its weights alone are taken" in done.stderr
    words = [python, "-m", "slimrl", "replay", "run", "--json"]
    replayed = subprocess.run(words, cwd=job.folder, capture_output=True, text=True)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    found = {check["step"]: check for check in json.loads(replayed.stdout)["checks"] if "loss" in check["name"]}
    assert found.keys() == {0, 1}
    assert all(check["compared"] and not check["different"] for check in found.values())
