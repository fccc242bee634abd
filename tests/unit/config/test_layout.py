"""Layouts of the trainer: what does not multiply out, has no effect or does not suit the model is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slimrl.config.flags import parse
from slimrl.config.layout import Layout, Recompute, check_layout, layout_of
from slimrl.megatron.layout_rules import training_problems
from slimrl.megatron.shape import model_shape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
EXPERTS = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPERTS["norm_topk_prob"] = True
LATENT = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
}


def problems(flags: str) -> list[str]:
    config = parse(flags.split()).config
    return list(check_layout(config.cluster, config.perf, config.optimizer))


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--actor-num-gpus-per-node 8 --tensor-model-parallel-size 2 --sequence-parallel --context-parallel-size 2",
        "--actor-num-gpus-per-node 4 --pipeline-model-parallel-size 2 --virtual-pipeline-model-parallel-size 2",
        "--actor-num-gpus-per-node 2 --use-distributed-optimizer --balance-data --balance-by-flops",
        "--actor-num-gpus-per-node 2 --context-parallel-size 2 --use-distributed-optimizer",
        "--recompute-granularity full --recompute-method block --recompute-num-layers 2",
        "--recompute-granularity selective",
        "--actor-num-nodes 3 --actor-num-gpus-per-node 2 --ray-address auto --pipeline-model-parallel-size 6",
    ],
)
def test_what_multiplies_out_is_taken(flags: str) -> None:
    assert problems(flags) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--actor-num-gpus-per-node 6 --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2",
            "--actor-num-gpus-per-node 6 is not a multiple of --tensor-model-parallel-size 2 x "
            "--pipeline-model-parallel-size 2 x --context-parallel-size 1 = 4; set --actor-num-gpus-per-node 4",
        ),
        (
            "--actor-num-nodes 2 --ray-address auto --pipeline-model-parallel-size 4",
            "--actor-num-nodes 2 x --actor-num-gpus-per-node 1 = 2 is not a multiple of --tensor-model-parallel-size 1 "
            "x --pipeline-model-parallel-size 4 x --context-parallel-size 1 = 4; set --actor-num-gpus-per-node 2 or",
        ),
        ("--actor-num-nodes 2", "--actor-num-nodes 2 needs the --ray-address of a cluster of as many machines"),
        ("--actor-num-gpus-per-node 2 --expert-model-parallel-size 4", "= 4; set --actor-num-gpus-per-node 4"),
        ("--actor-num-gpus-per-node 2 --expert-tensor-parallel-size 4", "= 4; set --actor-num-gpus-per-node 4"),
        ("--sequence-parallel", "no effect without a --tensor-model-parallel-size above 1"),
        ("--virtual-pipeline-model-parallel-size 2", "no effect without a --pipeline-model-parallel-size above 1"),
        ("--use-distributed-optimizer", "no two processes have the same weights"),
        ("--actor-num-gpus-per-node 2 --use-distributed-optimizer --optimizer sgd", "--optimizer sgd cannot have it"),
        ("--balance-data", "all samples go to the same"),
        ("--balance-by-flops", "no effect without --balance-data"),
        ("--recompute-method uniform", "no effect without --recompute-granularity full"),
        ("--recompute-granularity selective --recompute-num-layers 1", "no effect without"),
        ("--recompute-granularity full --recompute-num-layers 1", "full needs --recompute-method: uniform or block"),
    ],
)
def test_what_does_not_is_refused_with_the_reason(flags: str, said: str) -> None:
    (problem,) = problems(flags)
    assert said in problem


def test_experts_are_shared_like_other_matrices_unless_told_otherwise() -> None:
    flags = "--actor-num-gpus-per-node 4 --tensor-model-parallel-size 4"
    for more, size in (("", 4), (" --expert-tensor-parallel-size 1", 1)):
        config = parse((flags + more).split()).config
        assert layout_of(config.cluster, config.perf, config.optimizer).expert_tensor_size == size


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(3, tensor_size=3, expert_tensor_size=3), "does not divide the model's 8 attention heads"),
        (Layout(4, tensor_size=4, expert_tensor_size=4), "does not divide the model's 2 query groups"),
        (Layout(4, pipeline_size=4), "--pipeline-model-parallel-size 4 does not divide the model's 6 layers"),
        (
            Layout(2, pipeline_size=2, chunks_per_stage=2),
            "--pipeline-model-parallel-size 2 x --virtual-pipeline-model-parallel-size 2 does not divide",
        ),
        (Layout(2, expert_size=2), "--expert-model-parallel-size 2 has no effect: the model has no experts"),
    ],
)
def test_what_the_model_does_not_allow_is_refused_with_its_numbers(layout: Layout, said: str) -> None:
    assert any(said in problem for problem in training_problems(model_shape(LLAMA), layout))
    assert training_problems(model_shape(LLAMA), replace(layout, **vars(Layout(2)))) == []


@pytest.mark.parametrize("expert_size", [1, 2])
@pytest.mark.parametrize("expert_tensor_size", [1, 2])
@pytest.mark.parametrize("config", [EXPERTS, LATENT], ids=["experts", "latent attention"])
def test_experts_may_be_both_spread_and_shared(
    config: dict[str, Any], expert_tensor_size: int, expert_size: int
) -> None:
    spread = {"expert_size": expert_size, "expert_tensor_size": expert_tensor_size}
    layout = Layout(4, tensor_size=2, is_sequence_parallel=True, **spread)
    assert training_problems(model_shape(config), layout) == []


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(3, expert_size=3), "--expert-model-parallel-size 3 does not divide the model's 4 experts"),
        (Layout(2, tensor_size=2, expert_tensor_size=2), "needs --sequence-parallel"),
        (
            Layout(3, expert_tensor_size=3),
            "--expert-tensor-parallel-size 3 does not divide the model's 32 channels of an expert",
        ),
    ],
)
def test_what_experts_do_not_allow_is_refused(layout: Layout, said: str) -> None:
    (problem,) = training_problems(model_shape(EXPERTS), layout)
    assert said in problem


def test_channels_of_experts_need_not_be_divided_by_those_who_share_other_matrices() -> None:
    shape = model_shape({**EXPERTS, "moe_intermediate_size": 31})
    layout = Layout(2, tensor_size=2, expert_tensor_size=1, is_sequence_parallel=True)
    assert training_problems(shape, layout) == []
    (problem,) = training_problems(shape, replace(layout, expert_tensor_size=2))
    assert "--tensor-model-parallel-size 2 does not divide the model's 31 channels of an expert" in problem


@pytest.mark.parametrize(("num_layers", "fits"), [(1, True), (3, True), (2, False), (4, False)])
def test_layers_that_are_computed_again_together_divide_those_of_a_stage(num_layers: int, fits: bool) -> None:
    layout = Layout(2, pipeline_size=2)
    found = training_problems(model_shape(LLAMA), layout, Recompute("full", "uniform", num_layers))
    assert (found == []) is fits
    assert fits or "does not divide the 3 layers that are computed together" in found[0]
    assert training_problems(model_shape(LLAMA), layout, Recompute("full", "block", num_layers)) == []


def test_a_model_without_experts_has_none_to_share() -> None:
    layout = Layout(2, tensor_size=2, expert_tensor_size=1)
    assert training_problems(model_shape(LLAMA), layout) == []
    (problem,) = training_problems(model_shape(LLAMA), Layout(2, expert_tensor_size=2))
    assert "--expert-tensor-parallel-size 2 has no effect: the model has no experts" in problem


def test_state_of_experts_is_shared_where_other_weights_are_on_one_process_each() -> None:
    flags = "--actor-num-gpus-per-node 2 --tensor-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer"
    assert "no two processes have the same weights" in problems(flags)[0]
    assert problems(flags + " --expert-tensor-parallel-size 1") == []
    layout = Layout(2, tensor_size=2, is_sequence_parallel=True, shares_optimizer=True)
    assert training_problems(model_shape(EXPERTS), layout) == []
    (problem,) = training_problems(model_shape(LLAMA), layout)
    assert "no two processes have the same weights" in problem
