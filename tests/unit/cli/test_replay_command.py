"""`slimrl replay` asked wrongly: one clear error each, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl import Group, Sample, Status
from slimrl.cli.main import main
from slimrl.config import Config, GrpoConfig, RolloutConfig
from slimrl.config.settings import settings
from slimrl.config.toml import to_toml
from slimrl.observe.rollout_file import write_rollout
from slimrl.observe.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run of one stored step."""
    monkeypatch.chdir(tmp_path)
    run = RunDir(Path("run"))
    run.create()
    rollout = RolloutConfig(rm_type="f1", rollout_batch_size=1, rollout_max_response_len=4)
    config = Config(rollout=rollout, grpo=GrpoConfig())
    run.config.write_text(to_toml(config, dict.fromkeys(settings(), "flag")))
    sample = Sample(0, 0, 0, "1 + 1", [5], response="2", status=Status.COMPLETED, tokens=[7], loss_mask=[1])
    sample.log_probs, sample.weight_versions = [-1.0], [0]
    write_rollout(run.rollouts, 0, [Group(0, [sample])], {})
    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: slimrl replay RUN"),
        (["nothing"], "nothing is no run folder: there is no config.toml in it"),
        (["run", "--step", "7"], "--step 7: the run has the steps 0 to 0"),
        (["run", "--no-model", "--catch-up"], "--catch-up has no effect with --no-model"),
        (["run", "--no-model", "--num-threads", "2"], "--num-threads has no effect with --no-model"),
        (["run", "--num-threads", "0"], "--num-threads 0 must be at least 1"),
        (["run", "--rm-timeout", "0"], "--rm-timeout must be above 0; got 0"),
        (["run", "--rm-timeout", "nan"], "--rm-timeout must be above 0; got nan"),
        (["run", "--rm-timeout", "inf"], "--rm-timeout must be above 0; got inf"),
        (["run", "--stepp", "1"], "unknown flag --stepp; did you mean --step?"),
    ],
)
def test_a_wrong_command_is_one_clear_error(
    run: RunDir, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run.config.is_file()
    assert main(["replay", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.parametrize("text", ["", "7", '[{"kind": "reward"}]', '[{"kind": "x", "reference": "y", "sha256": ""}]'])
def test_a_lock_of_plugins_that_is_none_is_told(run: RunDir, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run.plugins_lock.write_text(text)
    assert main(["replay", "run", "--no-model"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: run/plugins.lock is no list of plugins")


def test_a_run_without_stored_samples_is_told(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    (run.rollouts / "000000.parquet").unlink()
    assert main(["replay", "run"]) == 2
    assert "run has no stored samples (rollouts/STEP.parquet)" in capsys.readouterr().err


def test_steps_by_weights_that_no_checkpoint_has_cannot_be_replayed(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run.config.read_text()
    assert "keep_old_actor = false" in text
    run.config.write_text(text.replace("keep_old_actor = false", "keep_old_actor = true"))
    assert main(["replay", "run"]) == 2
    assert "the run was made with --keep-old-actor" in capsys.readouterr().err
