"""`slimrl eval`: a checkpoint of the tiny model evaluated by itself, and what is refused before anything starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from slimrl.checkpoints import new_checkpoint
from slimrl.cli.eval import is_told
from slimrl.cli.eval_job import TRAINING_CATEGORIES, TRAINING_SETTINGS
from slimrl.config.settings import categories, settings

Run = Callable[..., Any]

REWARDS = """
def echo(sample):
    return sum(token == sample.prompt_tokens[0] for token in sample.tokens) / 4
def parts(sample):
    return {"first": float(sample.tokens[:1] == sample.prompt_tokens[:1]), "length": len(sample.tokens)}
def nothing(sample):
    return None
def best(group):
    longest = max(len(sample.tokens) for sample in group)
    return [float(len(sample.tokens) == longest) for sample in group]
def broken(sample):
    raise ValueError("no judge here")
"""

GENERATORS = """
async def one_token(sample, sampling, engine):
    completion = await engine.generate(sample.prompt_tokens, sampling)
    sample.append(completion.tokens[:1], completion.log_probs[:1], completion.weight_versions[:1])
    sample.status = "truncated"
    return sample

def seen(args, sample, evaluation=False):
    sample.metadata["seen"] = evaluation

def add(step, results, metrics):
    metrics["eval/added"] = len(results)
"""


@pytest.fixture
def flags(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, object]:
    (tmp_path / "digits.jsonl").write_text("".join(json.dumps({"input": str(d)}) + "\n" for d in range(1, 5)))
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "generators.py").write_text(GENERATORS)
    return {
        "--hf-checkpoint": tiny_checkpoint,
        "--eval-max-response-len": 4,
        "--n-samples-per-eval-prompt": 2,
        "--custom-rm-path": "rewards.py:echo",
        "--num-threads": 1,
        "--output": "out",
    }


def words(flags: dict[str, object], *more: object, without: tuple[str, ...] = ()) -> list[object]:
    return ["eval", *(word for pair in flags.items() if pair[0] not in without for word in pair), *more]


HEEDED = frozenset(
    [
        *("hf_checkpoint", "load", "ckpt_step"),
        *("input_key", "label_key", "metadata_key", "tool_key", "apply_chat_template", "apply_chat_template_kwargs"),
        *("rollout_seed", "rollout_max_response_len", "rollout_max_prompt_len", "rollout_max_context_len"),
        *("rollout_temperature", "rollout_top_p", "rollout_top_k", "rollout_stop", "rollout_stop_token_ids"),
        *("custom_generate_function_path", "rollout_sample_hook_path", "generate_retries"),
        *("rm_type", "reward", "custom_rm_path", "reward_key", "group_rm", "rm_timeout", "rm_workers", "rm_cache_size"),
        *("on_unscored", "rm_url", "eval_prompt_data", "eval_config", "n_samples_per_eval_prompt"),
        *("eval_input_key", "eval_label_key", "eval_tool_key", "eval_reward_key", "eval_pass_threshold"),
        *("eval_max_response_len", "eval_max_prompt_len", "eval_max_context_len", "eval_min_new_tokens"),
        *("eval_temperature", "eval_top_p", "eval_top_k", "custom_eval_rollout_log_function_path"),
        "eval_function_path",  # to be refused with its own reason
        *("rollout_external_engine_addrs", "rollout_num_gpus_per_engine", "sglang_server_concurrency"),
        *("sglang_max_running_requests", "rollout_health_check_interval", "rollout_health_check_timeout"),
        *("rollout_num_gpus", "device", "dtype", "num_threads", "seed", "deterministic", "progress"),
    ]
)
"""What `slimrl eval` reads of training's settings."""


DIGITS = ("--eval-prompt-data", "digits", "digits.jsonl")


def test_every_setting_of_training_alone_is_a_setting() -> None:
    assert set(settings()) >= TRAINING_SETTINGS
    assert set(categories()) >= TRAINING_CATEGORIES


def test_every_other_setting_is_one_that_an_evaluation_reads() -> None:
    others = {name for name, setting in settings().items() if setting.category not in TRAINING_CATEGORIES}
    assert others - TRAINING_SETTINGS == HEEDED


def test_counts_of_what_did_not_happen_are_not_told() -> None:
    assert not is_told("unscored_error", 0.0)
    assert not is_told("failed_samples", 0.0)
    assert is_told("unscored_error", 2.0)
    assert is_told("unscored_ratio", 0.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rewards_of_every_kind_in_one_evaluation(flags: dict[str, object], slimrl: Run, tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text(
        """
        [datasets.plain]
        path = "digits.jsonl"
        custom_rm_path = "rewards.py:echo"
        pass_threshold = 0.25
        [datasets.parts]
        path = "digits.jsonl"
        custom_rm_path = "rewards.py:parts"
        reward_key = "first"
        n_samples_per_eval_prompt = 4
        min_new_tokens = 4
        k = [1, 3]
        [datasets.abstains]
        path = "digits.jsonl"
        custom_rm_path = "rewards.py:nothing"
        temperature = 0
        [datasets.compares]
        path = "digits.jsonl"
        custom_rm_path = "rewards.py:best"
        group_rm = true
        [datasets.generates]
        path = "digits.jsonl"
        custom_rm_path = "rewards.py:parts"
        reward_key = "length"
        custom_generate_function_path = "generators.py:one_token"
        [datasets.fails]
        path = "digits.jsonl@[1:3]"
        custom_rm_path = "rewards.py:broken"
        """
    )
    hooks = ("--rollout-sample-hook-path", "generators.py:seen")
    hooks += ("--custom-eval-rollout-log-function-path", "generators.py:add")
    outcome = slimrl(*words(flags, "--eval-config", "sets.toml", "--json", *hooks, without=("--custom-rm-path",)))
    assert outcome.code == 0, outcome.stderr
    assert not {"ray", "megatron"} & set(outcome.heavy)
    told = json.loads(outcome.stdout)
    metrics = told["metrics"]
    assert told["step"] == 0
    assert {name for name in metrics if name.startswith("eval/parts-pass@")} == {
        "eval/parts-pass@1",
        "eval/parts-pass@3",
    }
    assert metrics["eval/parts"] == metrics["eval/parts-reward_first_mean"] == metrics["eval/parts-pass@1"]
    assert metrics["eval/parts-reward_length_mean"] == metrics["eval/parts-response_len_max"] == 4.0
    assert metrics["eval/plain-pass@2"] >= metrics["eval/plain-pass@1"]
    assert metrics["eval/abstains-unscored_ratio"] == metrics["eval/fails-unscored_ratio"] == 1.0
    assert not {"eval/abstains", "eval/fails"} & set(metrics)
    stored = {path.parent.name: pq.read_table(path).to_pylist() for path in tmp_path.glob("out/eval/*/000000.parquet")}
    assert {name: len(rows) for name, rows in stored.items()} == {
        "plain": 8,
        "parts": 16,
        "abstains": 8,
        "compares": 8,
        "generates": 8,
        "fails": 4,
    }
    assert metrics["eval/generates"] == 1.0
    assert metrics["eval/added"] == 6.0
    assert all(json.loads(row["metadata"])["seen"] is True for rows in stored.values() for row in rows)
    assert [row["kind"] for row in json.loads((tmp_path / "out" / "plugins.lock").read_text())].count("generator") == 2
    assert metrics["eval/compares-pass@2"] == 1.0  # one of each pair is the longest
    values = [row["value"] for row in stored["plain"]]
    assert metrics["eval/plain"] == pytest.approx(sum(values) / len(values))
    assert "no judge here" in stored["fails"][0]["score_reason"]
    assert "no judge here" in (tmp_path / "out" / "events.jsonl").read_text()
    assert json.loads((tmp_path / "out" / "metrics.jsonl").read_text()) == {"step": 0, **metrics}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failed_reward_ends_the_evaluation_where_it_is_told_to(flags: dict[str, object], slimrl: Run) -> None:
    flags["--custom-rm-path"] = "rewards.py:broken"
    outcome = slimrl(*words(flags, *DIGITS, "--on-unscored", "stop"))
    assert outcome.code == 1
    assert "evaluation set digits: reward" in outcome.stderr
    assert "no judge here" in outcome.stderr


def test_mistakes_are_reported_together_and_nothing_heavy_is_loaded(
    flags: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    (tmp_path / "digits.jsonl").write_text('{"prompt": "1"}\n')
    outcome = slimrl(
        *words(flags, *DIGITS, "--lr", 1, "--num-rollout", 3, "--eval-top-p", 2, without=("--custom-rm-path",))
    )
    assert outcome.code == 2
    assert outcome.heavy == []
    problems = outcome.stderr.splitlines()
    assert "error: --lr has no effect in slimrl eval, which does not train" in problems
    assert "error: --num-rollout has no effect in slimrl eval, which does not train" in problems
    assert any("--eval-top-p must be more than 0" in problem for problem in problems)
    assert any("digits.jsonl:1: no key 'input'" in problem for problem in problems)
    assert any("a reward is required" in problem for problem in problems)
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_does_not_fit_is_refused_before_an_engine_starts(
    flags: dict[str, object], slimrl: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "digits.jsonl").write_text('{"input": "1"}\n' + json.dumps({"input": "1 " * 70}) + "\n")
    outcome = slimrl(*words(flags, *DIGITS))
    assert outcome.code == 2
    assert "digits.jsonl:2: the prompt has 70 tokens, which leaves no room for a reply in the context" in outcome.stderr
    shutil.copytree(tiny_checkpoint, tmp_path / "smaller")
    settings = json.loads((tmp_path / "smaller" / "config.json").read_text())
    (tmp_path / "smaller" / "config.json").write_text(json.dumps(settings | {"vocab_size": 6}))
    (tmp_path / "digits.jsonl").write_text('{"input": "1"}\n{"input": "9"}\n')
    outcome = slimrl(*words(flags | {"--hf-checkpoint": "smaller"}, *DIGITS))
    assert outcome.code == 2
    assert "digits.jsonl:2: the prompt has the token id" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "without", "error"),
    [
        ((), (), "--eval-prompt-data is required: pairs of a name and a path"),
        (DIGITS, ("--hf-checkpoint",), "--hf-checkpoint is required"),
        (DIGITS, ("--eval-max-response-len",), "--eval-max-response-len is required"),
        ((*DIGITS, "--load", "nowhere"), ("--hf-checkpoint",), "--load nowhere holds no checkpoint of slimrl"),
        ((*DIGITS, "--load", "nowhere"), (), "--load and --hf-checkpoint both name the model"),
        ((*DIGITS, "--eval-min-new-tokens", "5"), (), "set 'digits': at least 5 new tokens but at most 4"),
        ((*DIGITS, "--data-source-path", "x.py:source"), (), "--data-source-path has no effect in slimrl eval"),
        ((*DIGITS, "--eval-function-path", "x.py:f"), (), "--eval-function-path x.py:f: such a function works with"),
        ((*DIGITS, "--run-dir", "x"), (), "--run-dir has no effect in slimrl eval"),
        ((*DIGITS, "--output", "digits.jsonl/out"), (), "out cannot be made: "),
        (
            (*DIGITS, "--rollout-external-engine-addrs", "a:1", "--dtype", "bfloat16"),
            (),
            "--dtype has no effect on engines that --rollout-external-engine-addrs names",
        ),
        ((*DIGITS, "--ckpt-step", "3"), (), "--ckpt-step 3 has no effect without --load"),
        (("--eval-config", "sets.toml"), (), "evaluation set 'a': there is no generator 'single_trun'"),
        (("--eval-prompt-data", "digits", "gone.jsonl"), (), "--eval-prompt-data digits gone.jsonl: No such file"),
    ],
)
def test_a_mistake_is_named(
    more: tuple[str, ...], without: tuple[str, ...], error: str, flags: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    sets = '[datasets.a]\npath = "digits.jsonl"\ncustom_generate_function_path = "single_trun"\n'
    (tmp_path / "sets.toml").write_text(sets)
    outcome = slimrl(*words(flags, *more, without=without))
    assert outcome.code == 2
    assert error in outcome.stderr
    assert "Traceback" not in outcome.stderr


def save_checkpoint(folder: Path, name: str, content: Path) -> None:
    with new_checkpoint(folder, 7, folder) as scratch:
        shutil.copytree(content, scratch / name)
        (scratch / "trainer.json").write_text('{"format": 1}')


def make_adapter(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A PEFT folder that changes two layers, and what the base's weights become."""
    weights = load_file(base / "model.safetensors")
    adapter: dict[str, torch.Tensor] = {}
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        rows, columns = weights[f"{module}.weight"].shape
        a, b = torch.randn(3, columns), torch.randn(rows, 3)
        adapter |= {f"base_model.model.{module}.lora_{part}.weight": m for part, m in (("A", a), ("B", b))}
        weights[f"{module}.weight"] += 2.0 * (b @ a)
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    said = {"r": 3, "lora_alpha": 6, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return weights


def responses(folder: Path, step: int) -> list[object]:
    return [row["tokens"] for row in pq.read_table(folder / "eval" / "digits" / f"{step:06d}.parquet").to_pylist()]


def test_adapters_are_merged_into_their_model(
    flags: dict[str, object], slimrl: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    torch.manual_seed(0)
    weights = make_adapter(tiny_checkpoint, tmp_path / "adapter")
    save_checkpoint(tmp_path / "saved", "adapter", tmp_path / "adapter")
    whole = shutil.copytree(tiny_checkpoint, tmp_path / "whole")
    save_file(weights, whole / "model.safetensors", {"format": "pt"})
    greedy = (*DIGITS, "--eval-temperature", "0", "--n-samples-per-eval-prompt", "1")
    del flags["--n-samples-per-eval-prompt"]
    outcome = slimrl(*words(flags, *greedy, "--load", "saved", without=("--hf-checkpoint",)))
    assert outcome.code == 0, outcome.stderr
    assert slimrl(*words({**flags, "--hf-checkpoint": whole, "--output": "expected"}, *greedy)).code == 0
    assert slimrl(*words({**flags, "--output": "base"}, *greedy)).code == 0
    found = responses(tmp_path / "out", 7)
    assert found == responses(tmp_path / "expected", 0)
    assert found != responses(tmp_path / "base", 0)
    assert not list((tmp_path / "out").glob(".model-*"))

    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": "gone"}))
    save_checkpoint(tmp_path / "moved", "adapter", tmp_path / "adapter")
    refused = slimrl(*words(flags, *greedy, "--load", "moved", without=("--hf-checkpoint",)))
    assert "was trained on gone, which is not there; name the model with --hf-checkpoint" in refused.stderr
    again = {**flags, "--hf-checkpoint": tiny_checkpoint, "--output": "again"}
    assert slimrl(*words(again, *greedy, "--load", "moved")).code == 0
    assert responses(tmp_path / "again", 7) == found


@pytest.mark.parametrize("kind", ["checkpoint", "megatron", "megatron without config"])
def test_weights_in_megatrons_format_are_evaluated(
    kind: str, flags: dict[str, object], slimrl: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    assert slimrl("convert", "--to", "megatron", "--input", tiny_checkpoint, "--output", "megatron").code == 0
    if kind == "checkpoint":
        save_checkpoint(tmp_path / "saved", "model", tmp_path / "megatron")
    load = ("--load", "saved" if kind == "checkpoint" else "megatron")
    if kind == "megatron without config":
        (tmp_path / "megatron" / "config.json").unlink()
        refused = slimrl(*words(flags, *DIGITS, *load, without=("--hf-checkpoint",)))
        assert "--load megatron is of Megatron and has no config.json; give the model's folder" in refused.stderr
        outcome = slimrl(*words(flags, *DIGITS, *load))
    else:
        outcome = slimrl(*words(flags, *DIGITS, *load, without=("--hf-checkpoint",)))
    assert outcome.code == 0, outcome.stderr
    assert slimrl(*words({**flags, "--output": "expected"}, *DIGITS)).code == 0
    assert responses(tmp_path / "out", 7 if kind == "checkpoint" else 0) == responses(tmp_path / "expected", 0)


def test_a_folder_of_a_training_run_or_of_this_evaluation_is_not_written_to(
    flags: dict[str, object], slimrl: Run, tmp_path: Path
) -> None:
    (tmp_path / "out" / "rollouts").mkdir(parents=True)
    assert "--output out is the folder of a training run" in slimrl(*words(flags, *DIGITS)).stderr
    stored = tmp_path / "again" / "eval" / "digits" / "000000.parquet"
    stored.parent.mkdir(parents=True)
    stored.touch()
    flags["--output"] = "again"
    assert "holds an evaluation of digits at step 0 already" in slimrl(*words(flags, *DIGITS)).stderr
