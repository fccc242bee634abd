"""What each rank of a parallel layout has of a checkpoint, as tensors: no process is needed to cut or to join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from slimrl.megatron.checkpoint import read_config
from slimrl.megatron.convert.place import (
    WHOLE,
    Place,
    join_shares,
    local_rules,
    num_shares,
    padded_vocabulary,
    pipeline_place,
    take_share,
)
from slimrl.megatron.convert.weights import export_weights, load_weights
from slimrl.megatron.shape import ModelShape, model_shape
from slimrl.megatron.tensor_files import TensorReader


def read(folder: Path) -> tuple[ModelShape, dict[str, torch.Tensor]]:
    """The shape, and every Megatron parameter whole."""
    shape, reader = model_shape(read_config(folder)), TensorReader(folder)
    rules = local_rules(shape, WHOLE)
    return shape, {name: rule.join([reader.read(part) for part in rule.hf], shape) for name, rule in rules}


FAMILIES = ("llama", "llama-tied", "qwen2", "qwen3-moe", "glm4", "deepseek-v3", "deepseek-v3-yarn")


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_tensor_parallel_ranks_join_to_the_whole(family: str, checkpoints: dict[str, Path]) -> None:
    shape, whole = read(checkpoints[family])
    for size in (2, 4):
        places = [
            Place(tensor_rank=rank, tensor_size=size, expert_tensor_rank=rank, expert_tensor_size=size)
            for rank in range(size)
        ]
        for name, rule in local_rules(shape, places[0]):
            shares = [take_share(whole[name], rule, place) for place in places[: num_shares(rule, places[0])]]
            assert len({share.shape for share in shares}) == 1, name
            assert torch.equal(join_shares(shares, rule, shape), whole[name]), name


def test_a_rank_has_whole_heads_and_gate_rows_with_their_up_rows(checkpoints: dict[str, Path]) -> None:
    shape, whole = read(checkpoints["llama"])
    second = Place(tensor_rank=1, tensor_size=2)
    shares = {name: take_share(whole[name], rule, second) for name, rule in local_rules(shape, second)}
    layer = "decoder.layers.0"
    queries_keys_values = whole[f"{layer}.self_attention.linear_qkv.weight"].view(2, 5 * 8, 48)
    assert torch.equal(shares[f"{layer}.self_attention.linear_qkv.weight"], queries_keys_values[1])
    gate, up = whole[f"{layer}.mlp.linear_fc1.weight"].chunk(2)
    assert torch.equal(shares[f"{layer}.mlp.linear_fc1.weight"], torch.cat((gate[40:], up[40:])))
    assert torch.equal(
        shares[f"{layer}.self_attention.linear_proj.weight"],
        whole[f"{layer}.self_attention.linear_proj.weight"][:, 24:],
    )
    assert padded_vocabulary(83, 2) == 84
    embedding = shares["embedding.word_embeddings.weight"]
    assert torch.equal(embedding[:-1], whole["embedding.word_embeddings.weight"][42:])
    assert not embedding[-1].any()


def stages(shape: ModelShape, num_stages: int) -> Iterator[dict[str, str]]:
    """Of each stage its parameters' names, and what they are called in the whole model."""
    for stage in range(num_stages):
        place = pipeline_place(WHOLE, shape, stage, num_stages)
        yield {name: rule.megatron for name, rule in local_rules(shape, place)}


def test_pipeline_stages_count_their_layers_from_0(checkpoints: dict[str, Path]) -> None:
    shape, whole = read(checkpoints["qwen3-moe"])
    first, second, third = stages(shape, 3)
    assert [name for one in (first, second, third) for name in one.values()] == list(whole)
    assert second["decoder.layers.0.input_layernorm.weight"] == "decoder.layers.1.input_layernorm.weight"
    assert "embedding.word_embeddings.weight" in first and "output_layer.weight" in third
    assert len(second) == sum(name.startswith("decoder.layers.1.") for name in whole)


def test_the_last_stage_has_a_copy_of_tied_embeddings(checkpoints: dict[str, Path]) -> None:
    shape, _ = read(checkpoints["llama-tied"])
    first, _, third = stages(shape, 3)
    assert first["embedding.word_embeddings.weight"] == third["output_layer.weight"]
    assert next(stages(shape, 1)).keys() == {name for name, _ in local_rules(shape, WHOLE)}


def test_expert_parallel_ranks_have_neighbouring_experts_counted_from_0(checkpoints: dict[str, Path]) -> None:
    shape, whole = read(checkpoints["deepseek-v3"])
    names = [
        {name: rule.megatron for name, rule in local_rules(shape, Place(expert_rank=rank, expert_size=4))}
        for rank in range(4)
    ]
    expert = "decoder.layers.2.mlp.experts.local_experts.{}.linear_fc2.weight"
    assert [one[expert.format(1)] for one in names] == [expert.format(number) for number in (1, 3, 5, 7)]
    shared = {name for name in whole if "local_experts" not in name}
    assert all(shared <= one.keys() for one in names)
    assert set.union(*(set(one.values()) for one in names)) == set(whole)


@pytest.mark.parametrize("family", ["llama-tied", "qwen3-moe", "glm4", "deepseek-v3"])
def test_a_checkpoint_loaded_by_every_rank_is_exported_bit_for_bit(family: str, checkpoints: dict[str, Path]) -> None:
    shape, whole = read(checkpoints[family])
    reader = TensorReader(checkpoints[family])
    shares: dict[str, list[torch.Tensor]] = {}
    for stage in range(3):
        for rank in range(2):
            place = pipeline_place(Place(tensor_rank=rank, tensor_size=2), shape, stage, 3)
            local = {
                name: take_share(torch.zeros_like(whole[rule.megatron]), rule, place)
                for name, rule in local_rules(shape, place)
            }
            load_weights(local, reader, shape, place)
            for name, rule in local_rules(shape, place):
                if (rule.place == "embedding") <= place.has_embedding:
                    shares.setdefault(rule.megatron, []).append(local[name])
    rules = dict(local_rules(shape, WHOLE))
    joined = {
        name: join_shares(shares[name][: num_shares(rules[name], Place(tensor_size=2))], rules[name], shape)
        for name in whole
    }
    exported = dict(export_weights(joined, shape))
    assert exported.keys() == reader.names()
    assert all(torch.equal(tensor, reader.read(name)) for name, tensor in exported.items())
