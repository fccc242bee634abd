"""Cross-field rules: each broken one is named once, and all of them together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimrl.config import (
    CkptConfig,
    ClusterConfig,
    Config,
    EvalConfig,
    GrpoConfig,
    ObserveConfig,
    OptimizerConfig,
    PerfConfig,
    SglangConfig,
)
from slimrl.config.check import check
from slimrl.config.ranges import RANGES
from slimrl.config.settings import settings

Make = Callable[..., Config]


def test_a_configuration_that_can_run_has_no_problem(make_config: Make) -> None:
    assert check(make_config()) == []


def test_everything_required_is_asked_for_at_once() -> None:
    problems = " ".join(check(Config(grpo=GrpoConfig(advantage_estimator="other"))))
    for flag in ("hf-checkpoint", "prompt-data", "rollout-batch-size", "rollout-max-response-len", "num-rollout"):
        assert f"--{flag}" in problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rollout_temperature": 0.0}, "--rollout-temperature must be more than 0; got 0.0"),
        ({"rollout_temperature": float("nan")}, "--rollout-temperature must be more than 0; got nan"),
        ({"rollout_top_p": 1.5}, "--rollout-top-p must be more than 0 and at most 1; got 1.5"),
        ({"rollout_top_k": 0}, "--rollout-top-k must be -1 (all) or at least 1; got 0"),
        ({"rollout_batch_size": 0}, "--rollout-batch-size must be at least 1; got 0"),
        ({"global_batch_size": 48}, "the batch equation does not hold"),
        ({"num_epoch": 2}, "--num-rollout 3 and --num-epoch 2 both set the length of training"),
        ({"over_sampling_batch_size": 4}, "--over-sampling-batch-size 4 must be at least --rollout-batch-size 8"),
        ({"partial_rollout": True}, "--partial-rollout has no effect without --over-sampling-batch-size above"),
        (
            {"partial_rollout": True, "over_sampling_batch_size": 16, "cluster": ClusterConfig(deterministic=True)},
            "--partial-rollout has no effect with --deterministic",
        ),
        ({"max_staleness": 2}, "--max-staleness 2 has no effect without --async"),
        ({"update_weights_interval": 2}, "--update-weights-interval 2 has no effect without --async"),
        ({"train_async": True, "update_weights_interval": 2}, "is more than --max-staleness 1 allows"),
        ({"train_async": True, "buffer_filter_path": "newest_first"}, "newest_first has no effect with --async"),
        ({"grpo": GrpoConfig(keep_old_actor=True)}, "--keep-old-actor needs --async"),
        (
            {"train_async": True, "grpo": GrpoConfig(keep_old_actor=True, use_rollout_logprobs=True)},
            "--keep-old-actor has no effect with --use-rollout-logprobs",
        ),
        ({"train_async": True, "max_staleness": 0}, "--max-staleness must be at least 1; got 0"),
        (
            {"train_async": True, "partial_rollout": True, "over_sampling_batch_size": 16},
            "--partial-rollout has no effect with --async",
        ),
        (
            {"train_async": True, "cluster": ClusterConfig(deterministic=True)},
            "--async cannot be repeated to the last digit",
        ),
        (
            {"mask_offpolicy_in_partial_rollout": True},
            "--mask-offpolicy-in-partial-rollout has no effect without --partial-rollout",
        ),
        ({"on_insufficient": "fallback"}, "--on-insufficient fallback has no effect without"),
        ({"rollout_stop": ("",)}, "--rollout-stop has an empty string"),
        ({"rollout_stop_token_ids": (-3,)}, "--rollout-stop-token-ids must be 0 or more; got -3"),
        ({"rollout_stop_token_ids": (7, 100)}, "--rollout-stop-token-ids 100 is no token of the model, whose ids are"),
        ({"rollout_max_response_len": 512}, "--rollout-max-response-len 512 is longer than the model's context of 512"),
        (
            {"rollout_max_prompt_len": 500},
            "--rollout-max-response-len 16 with --rollout-max-prompt-len 500 is longer than the model's context",
        ),
        (
            {"rollout_max_context_len": 513},
            "--rollout-max-context-len 513 is longer than the model's context of 512 tokens",
        ),
        (
            {"rollout_max_context_len": 16},
            "--rollout-max-response-len 16 must be below --rollout-max-context-len 16",
        ),
        (
            {"rollout_max_context_len": 64, "rollout_max_prompt_len": 64},
            "--rollout-max-prompt-len 64 must be below --rollout-max-context-len 64",
        ),
        ({"grpo": GrpoConfig(kl_loss_coef=0.1)}, "--kl-loss-coef 0.1 has no effect without --use-kl-loss"),
        ({"grpo": GrpoConfig(kl_loss_type="k2")}, "--kl-loss-type k2 has no effect without --use-kl-loss"),
        ({"grpo": GrpoConfig(eps_clip=-0.1)}, "--eps-clip must be 0 or more; got -0.1"),
        ({"optimizer": OptimizerConfig(adam_beta1=1.0)}, "--adam-beta1 must be from 0 to below 1; got 1.0"),
        ({"optimizer": OptimizerConfig(sgd_momentum=0.5)}, "--sgd-momentum has no effect with --optimizer adam"),
        (
            {"optimizer": OptimizerConfig(optimizer="sgd", adam_beta2=0.5)},
            "--adam-beta2 has no effect with --optimizer sgd",
        ),
        ({"optimizer": OptimizerConfig(lr=1.0, min_lr=0.1)}, "--min-lr 0.1 has no effect with --lr-decay-style"),
        (
            {"optimizer": OptimizerConfig(lr=0.1, min_lr=1.0, lr_decay_style="linear")},
            "--min-lr 1.0 must not be above --lr 0.1",
        ),
        ({"perf": PerfConfig(max_tokens_per_gpu=9)}, "--max-tokens-per-gpu 9 has no effect without"),
        (
            {"perf": PerfConfig(micro_batch_size=2, use_dynamic_batch_size=True)},
            "--micro-batch-size 2 has no effect with --use-dynamic-batch-size",
        ),
        ({"sglang": SglangConfig(rollout_external_engine_addrs=("localhost",))}, "expected host:port"),
        ({"sglang": SglangConfig(rollout_external_engine_addrs=("http://x:80",))}, "expected host:port"),
        ({"sglang": SglangConfig(rollout_external_engine_addrs=("x:70000",))}, "expected host:port"),
        ({"sglang": SglangConfig(rollout_external_engine_addrs=("a:1", "b:2", "a:1"))}, "names a:1 twice"),
        (
            {"sglang": SglangConfig(rollout_external_engine_addrs=("a:1",), sglang_max_running_requests=3)},
            "--sglang-max-running-requests has no effect on engines",
        ),
        (
            {
                "sglang": SglangConfig(rollout_external_engine_addrs=("a:1",)),
                "cluster": ClusterConfig(rollout_num_gpus=2),
            },
            "--rollout-num-gpus has no effect on engines",
        ),
        (
            {"sglang": SglangConfig(rollout_external_engine_addrs=("a:1",), rollout_num_gpus_per_engine=2)},
            "--rollout-num-gpus-per-engine has no effect on engines",
        ),
        (
            {"sglang": SglangConfig(rollout_num_gpus_per_engine=2), "cluster": ClusterConfig(rollout_num_gpus=4)},
            "--rollout-num-gpus-per-engine 2: the embedded engine has no tensor parallelism; start SGLang servers",
        ),
        ({"eval": EvalConfig(eval_top_p=0.5)}, "--eval-top-p has no effect without --eval-interval"),
        ({"eval": EvalConfig(eval_interval=2)}, "--eval-interval needs --eval-prompt-data"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named_once(changes: dict[str, object], problem: str, make_config: Make) -> None:
    problems = check(make_config(**changes))
    assert len(problems) == 1
    assert problem in problems[0]


@pytest.mark.parametrize("address", ["127.0.0.1:3000", "engine-0.local:80", "[::1]:30000"])
def test_an_engine_address_is_host_and_port(address: str, make_config: Make) -> None:
    assert check(make_config(sglang=SglangConfig(rollout_external_engine_addrs=(address,)))) == []


def test_several_broken_rules_are_reported_together(make_config: Make) -> None:
    config = make_config(rollout_top_p=2.0, global_batch_size=48, grpo=GrpoConfig(kl_loss_coef=0.1))
    assert len(check(config)) == 3


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("a",), "takes pairs of a name and a path; got 1 words: a"),
        (("a", "PATH", "a", "PATH"), "names two sets 'a'"),
        (("a/b", "PATH"), "'a/b' cannot name a set"),
        (("a", "nowhere.jsonl"), "--eval-prompt-data a nowhere.jsonl: No such file or directory"),
    ],
)
def test_evaluation_sets_are_checked(
    words: tuple[str, ...], problem: str, make_config: Make, prompt_file: Path
) -> None:
    words = tuple(str(prompt_file) if word == "PATH" else word for word in words)
    problems = check(make_config(eval=EvalConfig(eval_interval=2, eval_prompt_data=words)))
    assert len(problems) == 1
    assert problem in problems[0]


def test_a_context_that_an_evaluation_overruns_is_named(make_config: Make, prompt_file: Path) -> None:
    evaluation = EvalConfig(eval_interval=1, eval_prompt_data=("a", str(prompt_file)), eval_max_response_len=600)
    assert check(make_config(eval=evaluation)) == [
        "--eval-max-response-len 600 is longer than the model's context of 512 tokens"
    ]


def test_a_context_of_fewer_tokens_than_prompt_and_response_may_have_cuts_the_response(make_config: Make) -> None:
    assert check(make_config(rollout_max_context_len=40, rollout_max_prompt_len=30)) == []


def test_an_evaluation_has_lengths_of_its_own_or_those_of_training(make_config: Make, prompt_file: Path) -> None:
    def problems(**own: Any) -> list[str]:
        evaluation = EvalConfig(eval_interval=1, eval_prompt_data=("a", str(prompt_file)), **own)
        return check(make_config(rollout_max_context_len=64, eval=evaluation))

    assert problems(eval_max_response_len=600, eval_max_context_len=512) == [
        "--eval-max-response-len 600 must be below --eval-max-context-len 512, which is of prompt and response together"
    ]
    (only,) = problems(eval_max_prompt_len=64)
    assert only.startswith("--eval-max-prompt-len 64 must be below --rollout-max-context-len 64")
    assert problems(eval_max_response_len=500, eval_max_context_len=512) == []


def test_a_prompt_file_must_be_there_be_text_and_hold_something(make_config: Make, tmp_path: Path) -> None:
    def problem(path: Path) -> str:
        (only,) = check(make_config(prompt_data=(str(path),)))
        return only

    missing, empty, binary = (tmp_path / name for name in ("missing.jsonl", "empty.jsonl", "table.jsonl"))
    empty.touch()
    binary.write_bytes(b"PAR1\xff\xfe\x00")
    assert problem(missing) == f"--prompt-data {missing}: No such file or directory"
    assert problem(empty) == f"--prompt-data {empty} is empty; expected one JSON object a line"
    assert "is not text; expected a JSONL file" in problem(binary)
    assert check(make_config(prompt_data=(str(binary.rename(tmp_path / "table.parquet")),))) == []
    assert problem(empty.rename(tmp_path / "empty.parquet")).endswith("empty.parquet is not a parquet file")
    assert problem(tmp_path) == f"--prompt-data {tmp_path}: Is a directory"


def test_folders_that_are_files_are_named(make_config: Make, model_folder: Path, prompt_file: Path) -> None:
    ckpt = CkptConfig(hf_checkpoint=model_folder, ref_load=prompt_file, load=prompt_file, save=prompt_file)
    problems = check(make_config(ckpt=ckpt, observe=ObserveConfig(run_dir=prompt_file)))
    assert [problem.split()[0] for problem in problems] == ["--ref-load", "--load", "--save", "--run-dir"]


@pytest.mark.parametrize("flag", ["ref_load", "critic_load"])
def test_a_folder_without_weights_is_named(flag: str, make_config: Make, model_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    base = make_config().ckpt
    problems = check(make_config(ckpt=replace(base, **{flag: empty})))
    assert problems == [
        f"--{flag.replace('_', '-')} {empty} holds no weights; expected a Hugging Face checkpoint, or one of slimrl or "
        "Megatron"
    ]
    assert check(make_config(ckpt=replace(base, **{flag: model_folder}))) == []


def test_folders_below_a_file_are_named_before_there_is_something_to_save(make_config: Make, prompt_file: Path) -> None:
    below = prompt_file / "run"
    config = make_config(observe=ObserveConfig(run_dir=below))
    problems = check(replace(config, ckpt=replace(config.ckpt, save=below)))
    said = f"{below} cannot be made: {prompt_file} is a file; name another folder"
    assert problems == [f"--save {said}", f"--run-dir {said}"]


def test_a_folder_to_resume_from_may_not_exist_yet(make_config: Make, model_folder: Path, tmp_path: Path) -> None:
    ckpt = CkptConfig(hf_checkpoint=model_folder, load=tmp_path / "new", save=tmp_path / "new")
    assert check(make_config(ckpt=ckpt)) == []


def test_a_chat_template_that_cannot_be_read_is_one_problem_among_others(make_config: Make, model_folder: Path) -> None:
    (model_folder / "tokenizer_config.json").write_text("{")
    problems = check(make_config(apply_chat_template=True, rollout_top_k=0))
    assert len(problems) == 2
    assert "tokenizer_config.json cannot be read" in " ".join(problems)


def test_a_chat_template_must_exist_to_be_applied(make_config: Make, model_folder: Path) -> None:
    assert check(make_config(apply_chat_template=True)) == []
    (model_folder / "tokenizer_config.json").write_text(json.dumps({}))
    assert "has no chat template" in check(make_config(apply_chat_template=True))[0]


def test_one_sample_a_prompt_is_fine_for_other_estimators(make_config: Make) -> None:
    config = make_config(n_samples_per_prompt=1)
    assert check(replace(config, grpo=GrpoConfig(advantage_estimator="mine"))) == []


def test_every_number_has_a_range() -> None:
    numbers = {name for name, setting in settings().items() if setting.base in (int, float)}
    assert numbers == RANGES.keys()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tis_clip": 3.0}, "--tis-clip has no effect without --use-tis"),
        ({"use_tis": True, "tis_clip_low": 3.0}, "--tis-clip-low 3.0 must not be above --tis-clip 2.0"),
        (
            {"use_tis": True, "tis_reject_level": "token", "tis_reject_low": 4.0},
            "--tis-reject-low 4.0 must not be above --tis-reject-high 2.0",
        ),
        ({"use_tis": True, "tis_reject_low": 0.5}, "have no effect without --tis-reject-level"),
        ({"use_tis": True, "use_rollout_logprobs": True}, "--use-tis has no effect with --use-rollout-logprobs"),
        ({"use_tis": True, "get_mismatch_metrics": True}, "--get-mismatch-metrics has no effect with --use-tis"),
        (
            {"use_tis": True, "tis_mode": "truncate", "tis_clip_low": 0.5},
            "--tis-clip-low 0.5 has no effect with --tis-mode truncate",
        ),
        ({"opsm_delta": 0.1}, "--opsm-delta 0.1 has no effect without --use-opsm"),
        ({"use_opsm": True}, "--use-opsm has no effect with one optimizer step per rollout"),
        ({"use_unbiased_kl": True}, "--use-unbiased-kl has no effect without --use-kl-loss"),
        ({"eps_clip_c": 1.0}, "--eps-clip-c must be more than 1; got 1.0"),
    ],
)
def test_a_correction_that_would_do_nothing_is_refused(
    changes: dict[str, Any], problem: str, make_config: Make
) -> None:
    assert problem in " ".join(check(make_config(grpo=GrpoConfig(**changes))))


@pytest.mark.parametrize(
    ("settings", "grpo", "has_effect"),
    [
        ({"num_steps_per_rollout": 2}, {}, True),
        ({"global_batch_size": 32}, {}, True),
        ({}, {"use_rollout_logprobs": True}, True),
        ({"train_async": True}, {}, True),
        ({"train_async": True}, {"use_tis": True}, False),
        ({"train_async": True}, {"keep_old_actor": True}, True),
        ({"train_async": True}, {"use_rollout_logprobs": False}, False),
    ],
)
def test_off_policy_masking_is_for_old_log_probs_that_are_not_the_steps_own(
    make_config: Make, settings: dict[str, Any], grpo: dict[str, Any], has_effect: bool
) -> None:
    said = check(make_config(**settings, grpo=GrpoConfig(use_opsm=True, **grpo)))
    assert [one.split(" with ")[0] for one in said] == ([] if has_effect else ["--use-opsm has no effect"])


def test_the_kl_divergence_is_in_the_rewards_or_in_the_loss(make_config: Make) -> None:
    grpo = GrpoConfig(kl_coef=0.1, use_kl_loss=True, kl_loss_coef=0.1)
    assert "both hold the policy near the reference" in " ".join(check(make_config(grpo=grpo)))
    assert check(make_config(grpo=GrpoConfig(kl_coef=0.1, kl_loss_type="k3"))) == []
