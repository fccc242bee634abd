"""The plan: what a configuration comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slimrl.config import ClusterConfig, Config, EvalConfig, GrpoConfig, OptimizerConfig, PerfConfig, SglangConfig
from slimrl.config.check import check
from slimrl.config.explain import explain
from slimrl.config.plan import format_plan, has_cuda_device, make_plan
from slimrl.config.resolve import resolve
from slimrl.config.settings import flatten, settings
from slimrl.errors import ConfigError

Make = Callable[..., Config]
CPU = ClusterConfig(device="cpu", num_threads=2)
PARAMETERS = 6464


def memory(config: Config) -> dict[str, dict[str, float]]:
    plan = make_plan(config, num_prompts=2)
    return {process.name: dict(process.parts) for process in plan.processes}


def test_batches_and_steps_are_derived(make_config: Make) -> None:
    plan = make_plan(make_config(num_steps_per_rollout=2, cluster=CPU), num_prompts=16)
    assert (plan.samples_per_rollout, plan.global_batch_size, plan.num_steps_per_rollout) == (64, 32, 2)
    assert (plan.num_rollout, plan.total_steps, plan.num_epochs) == (3, 6, 1.5)
    assert (plan.device, plan.dtype, plan.num_threads) == ("cpu", "float32", 2)
    assert plan.num_parameters == PARAMETERS


@pytest.mark.parametrize(("num_prompts", "num_rollout"), [(16, 4), (17, 4), (20, 5), (3, 1)])
def test_epochs_become_whole_rollouts(num_prompts: int, num_rollout: int, make_config: Make) -> None:
    plan = make_plan(make_config(num_rollout=None, num_epoch=2), num_prompts=num_prompts)
    assert plan.num_rollout == num_rollout


def test_cuda_computes_in_bfloat16_unless_told_otherwise(make_config: Make) -> None:
    assert make_plan(make_config(cluster=ClusterConfig(device="cuda")), num_prompts=2).dtype == "bfloat16"
    config = make_config(cluster=ClusterConfig(device="cuda", dtype="float32"))
    assert make_plan(config, num_prompts=2).dtype == "float32"


def test_a_gpu_is_seen_under_any_number_and_not_where_it_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert not has_cuda_device(tmp_path, {})
    (tmp_path / "nvidia3").touch()
    assert has_cuda_device(tmp_path, {})
    assert has_cuda_device(tmp_path, {"CUDA_VISIBLE_DEVICES": "0"})
    assert not has_cuda_device(tmp_path, {"CUDA_VISIBLE_DEVICES": ""})
    assert not has_cuda_device(tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"})


def test_a_warm_up_longer_than_the_run_is_refused(make_config: Make) -> None:
    config = make_config(optimizer=OptimizerConfig(lr_warmup_iters=3))
    with pytest.raises(ConfigError, match="--lr-warmup-iters 3 must be below the 3 optimizer steps"):
        make_plan(config, num_prompts=2)


def test_the_trainer_keeps_weights_gradients_and_two_moments(make_config: Make) -> None:
    trainer = memory(make_config(cluster=CPU))["trainer"]
    assert trainer["weights"] == trainer["gradients"] == 4 * PARAMETERS
    assert trainer["optimizer"] == 8 * PARAMETERS
    assert "reference model" not in trainer


def test_bfloat16_adds_the_optimizers_own_weights(make_config: Make) -> None:
    trainer = memory(make_config(cluster=ClusterConfig(device="cpu", dtype="bfloat16")))["trainer"]
    assert (trainer["weights"], trainer["optimizer"]) == (2 * PARAMETERS, 12 * PARAMETERS)


def test_a_kl_loss_adds_the_reference_model_and_sgd_keeps_less(make_config: Make) -> None:
    config = make_config(
        cluster=CPU, grpo=GrpoConfig(use_kl_loss=True), optimizer=OptimizerConfig(optimizer="sgd", sgd_momentum=0)
    )
    trainer = memory(config)["trainer"]
    assert (trainer["reference model"], trainer["optimizer"]) == (4 * PARAMETERS, 0)


def test_checkpoints_written_beside_the_steps_cost_a_copy_in_the_first_process(make_config: Make) -> None:
    ckpt = make_config().ckpt
    config = make_config(cluster=CPU, ckpt=replace(ckpt, async_save=True, save_interval=1))
    assert memory(config)["trainer"]["copy to save"] == 12 * PARAMETERS
    small = make_config(cluster=CPU, ckpt=replace(ckpt, async_save=True, save_interval=1, no_save_optim=True))
    assert memory(small)["trainer"]["copy to save"] == 4 * PARAMETERS
    spread = replace(
        config, cluster=replace(CPU, actor_num_gpus_per_node=2), perf=PerfConfig(tensor_model_parallel_size=2)
    )
    assert [memory(spread)[f"trainer {rank}"].get("copy to save") for rank in range(2)] == [12 * PARAMETERS, None]
    assert "copy to save" not in memory(make_config(cluster=CPU))["trainer"]
    pieces = replace(spread, ckpt=replace(config.ckpt, ckpt_format="torch_dist"))
    assert [memory(pieces)[f"trainer {rank}"]["copy to save"] for rank in range(2)] == [6 * PARAMETERS] * 2
    exported = replace(pieces, ckpt=replace(pieces.ckpt, save_hf="out"))
    assert [memory(exported)[f"trainer {rank}"]["copy to save"] for rank in range(2)] == [
        10 * PARAMETERS,
        6 * PARAMETERS,
    ]


def test_parameters_that_are_not_trained_have_no_gradient_and_no_optimizer_state(make_config: Make) -> None:
    plan = make_plan(make_config(cluster=CPU), num_prompts=2, num_trained=100)
    trainer = next(process.parts for process in plan.processes if process.name == "trainer")
    assert (trainer["weights"], trainer["gradients"], trainer["optimizer"]) == (4 * PARAMETERS, 400, 800)


def test_a_critic_is_a_second_model(make_config: Make) -> None:
    plan = make_plan(make_config(cluster=CPU), num_prompts=2, has_critic=True)
    trainer = next(process.parts for process in plan.processes if process.name == "trainer")
    assert trainer["critic"] == 16 * PARAMETERS
    assert "critic" not in memory(make_config(cluster=CPU))["trainer"]


def test_a_warm_up_counts_the_steps_that_the_policy_makes(make_config: Make) -> None:
    config = make_config(
        optimizer=OptimizerConfig(lr_warmup_iters=1, critic_lr_warmup_iters=3), grpo=GrpoConfig(num_critic_only_steps=2)
    )
    with pytest.raises(ConfigError) as error:
        make_plan(config, num_prompts=2, has_critic=True)
    assert [said.partition(" optimizer")[0] for said in error.value.problems] == [
        "--lr-warmup-iters 1 must be below the 1",
        "--critic-lr-warmup-iters 3 must be below the 3",
    ]
    alone = replace(config, grpo=GrpoConfig(num_critic_only_steps=3), optimizer=OptimizerConfig())
    assert make_plan(alone, num_prompts=2, has_critic=True).total_steps == 3


def test_the_engine_keeps_the_cache_of_what_runs_at_once(make_config: Make) -> None:
    numbers_per_token = 2 * 2 * 2 * 16
    assert memory(make_config(cluster=CPU))["engine"]["KV cache"] == 64 * 16 * numbers_per_token * 4
    few = make_config(cluster=CPU, rollout_max_prompt_len=4, sglang=SglangConfig(sglang_max_running_requests=10))
    assert memory(few)["engine"]["KV cache"] == 10 * 20 * numbers_per_token * 4
    short = replace(few, rollout=replace(few.rollout, rollout_max_context_len=18))
    assert memory(short)["engine"]["KV cache"] == 10 * 18 * numbers_per_token * 4


def test_several_engines_share_the_threads_and_the_requests(make_config: Make) -> None:
    config = make_config(cluster=replace(CPU, rollout_num_gpus=3, num_threads=8))
    plan = make_plan(config, num_prompts=2)
    assert (plan.num_engines, plan.engine_threads, plan.num_threads) == (3, 2, 8)
    one = memory(make_config(cluster=CPU))["engine"]
    parts = memory(config)
    assert [name for name in parts if name.startswith("engine")] == ["engine 0", "engine 1", "engine 2"]
    assert parts["engine 0"]["weights"] == one["weights"]
    assert parts["engine 0"]["KV cache"] == one["KV cache"] * 22 / 64
    assert "engines     3 embedded with 2 of the threads each" in format_plan(plan, config)
    crowded = make_plan(make_config(cluster=replace(CPU, rollout_num_gpus=3, num_threads=2)), num_prompts=2)
    assert crowded.engine_threads == 1


def test_several_embedded_engines_on_a_gpu_are_refused(make_config: Make) -> None:
    config = make_config(cluster=ClusterConfig(device="cuda", rollout_num_gpus=2))
    with pytest.raises(ConfigError, match=r"--rollout-num-gpus 2: .* one GPU.*--rollout-external-engine-addrs"):
        make_plan(config, num_prompts=2)


def test_engines_that_run_already_are_named(make_config: Make) -> None:
    config = make_config(sglang=SglangConfig(rollout_external_engine_addrs=("a:1", "b:2")))
    assert "engines     running already: a:1 b:2" in format_plan(make_plan(config, num_prompts=2), config)


def test_an_engine_elsewhere_is_not_counted(make_config: Make) -> None:
    assert "engine" not in memory(make_config(sglang=SglangConfig(rollout_external_engine_addrs=("a:1",))))


def test_the_text_has_batches_steps_processes_and_memory(make_config: Make, prompt_file: object) -> None:
    evaluation = EvalConfig(eval_interval=2, eval_prompt_data=("held-out", str(prompt_file)))
    config = make_config(cluster=CPU, eval=evaluation)
    text = format_plan(make_plan(config, num_prompts=2), config)
    for words in (
        "8 prompts x 8 samples = 64 samples = 64 a step x 1 optimizer steps a rollout",
        "3 rollouts = 3 optimizer steps, 12.00 epochs",
        "held-out every 2 rollouts",
        "cpu, float32, 2 threads",
        "trainer ",
        "engine ",
        "GiB",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "math"),
        ({"reward": ("math=1", "f1=0.5")}, "math=1 + f1=0.5"),
        ({"reward": ("math",), "custom_rm_path": "judge.py:score"}, "judge.py:score"),
        ({"rm_type": None}, "what rows name (metadata.rm_type)"),
        ({"rm_type": None, "grpo": GrpoConfig(use_opd=True)}, "what rows name (metadata.rm_type), else none"),
    ],
)
def test_the_text_names_the_reward_that_counts(changes: dict[str, object], line: str, make_config: Make) -> None:
    config = make_config(cluster=CPU, **changes)
    text = format_plan(make_plan(config, num_prompts=2), config)
    assert f"reward      {line}" in text.splitlines()


def test_what_is_unset_is_derived_and_said_to_be(make_config: Make, prompt_file: object) -> None:
    config = make_config(
        num_rollout=None,
        num_epoch=4,
        label_key="label",
        rollout_top_p=0.9,
        grpo=GrpoConfig(eps_clip=0.3, use_kl_loss=True),
        perf=PerfConfig(use_dynamic_batch_size=True),
        eval=EvalConfig(eval_interval=1, eval_prompt_data=("a", str(prompt_file)), eval_temperature=0.0),
    )
    resolved, origins = resolve(config, dict.fromkeys(settings(), "flag"), num_prompts=8)
    values = flatten(resolved)
    expected = {
        "num_rollout": 4,
        "global_batch_size": 64,
        "num_steps_per_rollout": 1,
        "over_sampling_batch_size": 8,
        "eps_clip_high": 0.3,
        "eval_top_p": 0.9,
        "eval_label_key": "label",
        "eval_max_response_len": 16,
        "max_tokens_per_gpu": 8192,
        "ref_load": config.ckpt.hf_checkpoint,
    }
    assert {name: values[name] for name in expected} == expected
    assert {origins[name] for name in expected} == {"derived"}
    assert (values["eval_temperature"], origins["eval_temperature"]) == (0.0, "flag")


def test_nothing_is_derived_for_an_evaluation_that_never_happens(make_config: Make) -> None:
    resolved, _ = resolve(make_config(), dict.fromkeys(settings(), "default"))
    assert resolved.eval == EvalConfig()


def test_a_resolved_configuration_keeps_every_rule(make_config: Make, prompt_file: object) -> None:
    evaluation = EvalConfig(eval_interval=1, eval_prompt_data=("a", str(prompt_file)))
    resolved, _ = resolve(make_config(eval=evaluation), dict.fromkeys(settings(), "default"), num_prompts=2)
    assert check(resolved) == []


def test_one_key_is_explained_however_it_is_spelt(make_config: Make) -> None:
    origins = dict.fromkeys(settings(), "default") | {"rollout_batch_size": "flag"}
    for key in ("rollout_batch_size", "rollout-batch-size", "--rollout-batch-size"):
        (row,) = explain(make_config(), origins, key)
        assert (row.key, row.category, row.value, row.origin) == ("rollout_batch_size", "rollout", 8, "flag")
        assert row.help.startswith("Prompts (groups) per rollout")


def test_an_unknown_key_gets_the_nearest_one(make_config: Make) -> None:
    with pytest.raises(ConfigError, match="unknown key 'rollout_batchsize'; did you mean rollout_batch_size"):
        explain(make_config(), {}, "rollout_batchsize")
