"""`slimrl train` asked wrongly: one clear error, exit code 2, quickly, and nothing heavy loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimrl.cli.train import load_again
from slimrl.config import CkptConfig
from slimrl.config.flags import parse
from slimrl.hub import fetch

Run = Callable[..., Any]


@pytest.fixture
def argv(tmp_path: Path) -> dict[str, object]:
    """Flags of a run that could start."""
    prompts, reward = tmp_path / "prompts.jsonl", tmp_path / "reward.py"
    prompts.write_text('{"input": "1 + 1", "label": "2"}\n' * 20)
    reward.write_text("def score(sample):\n    return 1.0\n")
    return {
        "--hf-checkpoint": fetch("smollm2-135m"),
        "--prompt-data": prompts,
        "--label-key": "label",
        "--rollout-batch-size": 4,
        "--n-samples-per-prompt": 2,
        "--num-epoch": 2,
        "--rollout-max-response-len": 8,
        "--custom-rm-path": f"{reward}:score",
    }


def words(argv: dict[str, object], **changes: object) -> list[object]:
    changed = argv | {"--" + name.replace("_", "-"): value for name, value in changes.items()}
    return [word for pair in changed.items() for word in pair]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"n_sample_per_prompt": 2},
            "error: unknown flag --n-sample-per-prompt; did you mean --n-samples-per-prompt?",
        ),
        ({"prompt_data": "nowhere.jsonl"}, "error: --prompt-data nowhere.jsonl: No such file or directory"),
        ({"hf_checkpoint": "nowhere"}, "error: --hf-checkpoint nowhere does not exist; expected the folder of a"),
        ({"config": "nowhere.toml"}, "error: --config nowhere.toml: No such file or directory"),
        (
            {"global_batch_size": 6},
            "error: the batch equation does not hold: --rollout-batch-size 4 x --n-samples-per-prompt 2 = 8",
        ),
        ({"label_key": "answer"}, "prompts.jsonl:1: no key 'answer' (--label-key); this row has: input, label"),
        ({"num_layers": 12}, "error: --num-layers 12 but the checkpoint's is 30"),
        ({"custom_rm_path": "nowhere"}, "error: there is no reward 'nowhere'"),
        ({"custom_rm_path": "nowhere.py:score"}, "nowhere.py"),
    ],
)
def test_a_mistake_is_one_clear_error_within_three_seconds(
    changes: dict[str, object], error: str, argv: dict[str, object], slimrl: Run
) -> None:
    outcome = slimrl("train", *words(argv, **changes))
    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 1
    assert error in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.cpu_s < 3
    assert outcome.heavy == []


def test_mistakes_of_all_kinds_are_reported_together(argv: dict[str, object], slimrl: Run) -> None:
    outcome = slimrl(
        "train", *words(argv, label_key="answer", global_batch_size=6, num_layers=12, custom_rm_path="nowhere")
    )
    assert outcome.code == 2
    assert outcome.stderr.count("error: ") == 4


def test_a_dry_run_prints_the_plan_and_starts_nothing(argv: dict[str, object], slimrl: Run, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    outcome = slimrl("train", "--dry-run", *words(argv, device="cpu"))
    assert (outcome.code, outcome.stderr, outcome.heavy) == (0, "", [])
    assert "134.5 M parameters" in outcome.stdout
    assert "4 prompts x 2 samples = 8 samples = 8 a step x 1 optimizer steps a rollout" in outcome.stdout
    assert "10 rollouts = 10 optimizer steps, 2.00 epochs" in outcome.stdout
    assert {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"load": "saved", "ckpt_step": 7},
            "--ckpt-step 7: saved holds no checkpoint of that step; there: none",
        ),
        ({"run_dir": "run"}, "run: a run is there already; give another folder"),
    ],
)
def test_a_dry_run_also_looks_where_the_run_would_begin(
    changes: dict[str, object], error: str, argv: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
    outcome = slimrl("train", "--dry-run", *words(argv, **changes))
    assert (outcome.code, outcome.stdout, outcome.heavy) == (2, "", [])
    assert error in outcome.stderr


def test_the_plan_of_a_run_with_frozen_parameters_has_no_memory_for_training_them(
    argv: dict[str, object], slimrl: Run
) -> None:
    outcome = slimrl("train", "--dry-run", *words(argv, device="cpu", freeze_params_name_list="decoder"))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "weights 0.50, gradients 0.11, optimizer 0.21," in outcome.stdout


def test_a_function_is_told_to_be_slimes_by_its_parameters(
    argv: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    functions = tmp_path / "functions.py"
    functions.write_text("def slimes(args, samples):\n    pass\n\ndef ours(batch, groups):\n    return batch\n")
    flag = "custom_convert_samples_to_train_data_path"
    refused = slimrl("train", "--dry-run", *words(argv, advantage_estimator="rloo", **{flag: f"{functions}:slimes"}))
    assert (refused.code, refused.stderr.count("error: ")) == (2, 1)
    assert "--advantage-estimator rloo has no effect with --custom-convert-samples-to-train-data-path" in refused.stderr
    taken = slimrl("train", "--dry-run", *words(argv, advantage_estimator="rloo", **{flag: f"{functions}:ours"}))
    assert (taken.code, taken.stderr) == (0, "")


@pytest.mark.parametrize(
    ("load", "added"),
    [(None, ["--load", "saved"]), ("saved", []), ("./saved", []), ("of_megatron", ["--load", "saved"])],
)
def test_a_stopped_run_goes_on_from_where_it_saved(load: str | None, added: list[str]) -> None:
    assert load_again(CkptConfig(load=None if load is None else Path(load)), Path("saved")) == added


def test_a_run_that_began_at_a_step_of_its_choice_goes_on_from_the_newest() -> None:
    words = load_again(CkptConfig(load=Path("saved"), ckpt_step=2), Path("saved"))
    ckpt = parse(["--load", "saved", "--ckpt-step", "2", *words]).config.ckpt
    assert (ckpt.load, ckpt.ckpt_step) == (Path("saved"), None)


def test_the_help_of_train_is_light(slimrl: Run) -> None:
    outcome = slimrl("train", "--help")
    assert (outcome.code, outcome.heavy) == (0, [])
    assert "--rollout-batch-size" in outcome.stdout


def test_explain_says_where_each_value_came_from(slimrl: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[rollout]\nrollout_batch_size = 4\nn_samples_per_prompt = 2\n")
    outcome = slimrl("config", "explain", "--config", "run.toml", "--lr", "0.5", "--json")
    assert (outcome.code, outcome.heavy) == (0, [])
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(outcome.stdout)}
    assert rows["rollout_batch_size"] == (4, "file run.toml")
    assert rows["lr"] == (0.5, "flag")
    assert rows["seed"] == (1234, "default")
    assert rows["global_batch_size"] == (8, "derived")


def test_explain_has_what_fine_tuning_and_slimes_spelling_of_distillation_imply(slimrl: Run) -> None:
    outcome = slimrl("config", "explain", "--loss-type", "sft_loss", "--json")
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(outcome.stdout)}
    assert rows["rollout_function_path"] == ("sft", "derived")
    assert rows["apply_chat_template"] == (True, "derived")
    opd = ["--use-opd", "--opd-type", "sglang", "--rm-url", "http://x:1/generate", "--custom-rm-path"]
    outcome = slimrl("config", "explain", "opd-teacher-url", *opd, "slime.rollout.on_policy_distillation.reward_func")
    assert outcome.stdout.startswith('opd_teacher_url = "http://x:1/generate"\n  from      flag')


def test_explain_prints_a_table_that_is_not_cut_off(slimrl: Run) -> None:
    stop = "x" * 300
    outcome = slimrl("config", "explain", "--rollout-stop", stop, "[bold]")
    line = next(line for line in outcome.stdout.splitlines() if "rollout_stop " in line)
    assert line.split() == ["rollout", "rollout_stop", f'["{stop}",', '"[bold]"]', "flag"]


def test_explain_of_one_key_has_its_help(slimrl: Run) -> None:
    outcome = slimrl("config", "explain", "--eps-clip-high")
    assert outcome.code == 2  # a flag without its value, and no key
    outcome = slimrl("config", "explain", "eps-clip-high", "--eps-clip", "0.3")
    assert outcome.stdout.splitlines() == [
        "eps_clip_high = 0.3",
        "  from      derived",
        "  category  grpo",
        "  Clip range of the probability ratio above 1. Default: --eps-clip.",
    ]


@pytest.mark.parametrize("command", [["config"], ["config", "explan"], ["model"], ["model", "fetch"], ["model", "x"]])
def test_a_subcommand_without_its_words_shows_its_usage(command: list[str], slimrl: Run) -> None:
    outcome = slimrl(*command)
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: usage: slimrl ")


def test_explain_refuses_an_unknown_key(slimrl: Run) -> None:
    outcome = slimrl("config", "explain", "rollout-batchsize")
    assert (outcome.code, outcome.stderr) == (
        2,
        "error: unknown key 'rollout-batchsize'; did you mean rollout_batch_size?\n",
    )


def test_several_files_with_slices_and_weights_make_an_epoch(
    argv: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"input": "1 + 1", "label": "2"}\n{broken\n' + '{"input": "1 + 1", "label": "2"}\n' * 9)
    flags = words(argv, prompt_data=f"{argv['--prompt-data']}@[:-10]")
    outcome = slimrl("train", "--dry-run", *flags, "--prompt-data", f"{other}=2")
    assert (outcome.code, outcome.stderr.count("other.jsonl:2: not a JSON object")) == (2, 1)
    outcome = slimrl("train", "--dry-run", *flags, "--skip-bad-rows", "--prompt-data", f"{other}=2")
    assert (outcome.code, outcome.heavy) == (0, [])
    assert outcome.stderr.startswith(
        f"warning: {other}: 1 of 11 rows are malformed and left out; the first: {other}:2: "
    )
    assert "30 prompts" in outcome.stdout
    assert "15 rollouts = 15 optimizer steps, 2.00 epochs" in outcome.stdout


def test_a_prompt_that_fills_the_context_is_refused_before_anything_starts(
    argv: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"input": "1 + 1", "label": "2"}\n' + json.dumps({"input": "1 " * 9000, "label": "2"}) + "\n")
    outcome = slimrl("train", "--dry-run", *words(argv, prompt_data=path))
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"error: {path}:2: the prompt has 18000 tokens, which leaves no room for a reply")
    outcome = slimrl("train", "--dry-run", "--skip-long-prompts", *words(argv, prompt_data=path))
    assert outcome.code == 0
    assert "1 of 2 rows are too long and left out" in outcome.stderr
    evaluation = ["--eval-interval", 1, "--eval-prompt-data", "long", path]
    outcome = slimrl("train", "--dry-run", "--skip-long-prompts", *words(argv, prompt_data=path), *evaluation)
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"error: {path}:2: the prompt has 18000 tokens, which leaves no room for a reply")


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--apply-chat-template-kwargs", "{}"], "has no effect without --apply-chat-template"),
        (["--apply-chat-template", "--apply-chat-template-kwargs", "[1]"], "takes a JSON object"),
        (["--apply-chat-template", "--apply-chat-template-kwargs", '{"tools": []}'], "tools cannot be set"),
        (["--apply-chat-template", "--apply-chat-template-kwargs", '{"enable_thinkin": 1}'], "does not know 'enable_t"),
        (["--prompt-data", "p.jsonl=-1"], "the weight must be a number above 0; got '-1'"),
        (["--eval-interval", "1", "--eval-prompt-data", "x", "prompts.jsonl@[9]"], "a slice is @[a:b]"),
    ],
)
def test_wrong_words_about_prompts_are_one_clear_error(
    flags: list[str], error: str, argv: dict[str, object], slimrl: Run
) -> None:
    outcome = slimrl("train", *words(argv), *flags)
    assert outcome.code == 2
    assert (outcome.stderr.count("error: "), error in outcome.stderr) == (1, True), outcome.stderr


def test_an_option_of_a_plugin_that_is_not_used_is_refused(
    argv: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text("[dapo]\ndapo_strict_box_verify = true\n")
    outcome = slimrl("train", "--dry-run", *words(argv), "--config", "run.toml", "--accuracy-band-low", "0.1")
    assert (outcome.code, outcome.heavy) == (2, [])
    lines = sorted(outcome.stderr.splitlines())
    assert lines[0].startswith("error: --accuracy-band-low has no effect: it is of plugin filter-dynamic (slimrl ")
    assert lines[1].startswith("error: run.toml: dapo_strict_box_verify has no effect: it is of plugin reward-dapo (")
    (tmp_path / "prompts.jsonl").write_text('{"input": "1", "label": "2", "metadata": {"rm_type": "dapo"}}\n' * 8)
    del argv["--custom-rm-path"]
    filtered = ("--dynamic-sampling-filter-path", "truncation", "--accuracy-band-low", "0.1")
    outcome = slimrl("train", "--dry-run", *words(argv), "--config", "run.toml", *filtered)
    assert outcome.code == 0, outcome.stderr
