"""The rules of a whole model, by family."""

from __future__ import annotations

from collections.abc import Iterator

from slimrl.megatron.convert import deepseek_v3, glm4, llama, qwen2, qwen3, qwen3_moe
from slimrl.megatron.convert.rule import Rule
from slimrl.megatron.convert.value_head import VALUE_HEAD
from slimrl.megatron.shape import ModelShape


def rules_for(shape: ModelShape) -> list[Rule]:
    """One rule for each parameter of the model, full names, in the order of a forward pass."""
    rules = [llama.EMBEDDING]
    for layer in range(shape.num_layers):
        for rule in _layer_rules(shape, layer):
            rules.extend(one.of_layer(layer) for one in _by_expert(rule, shape))
    rules.append(llama.FINAL_NORM)
    if shape.has_value_head:
        rules.extend(VALUE_HEAD)
    elif not shape.has_tied_embeddings:
        rules.append(llama.OUTPUT)
    return rules


def _layer_rules(shape: ModelShape, layer: int) -> tuple[Rule, ...]:
    is_moe = shape.moe is not None and shape.moe.is_moe_layer[layer]
    match shape.family:
        case "llama" | "mistral":
            return llama.LAYER
        case "qwen2":
            return qwen2.LAYER
        case "qwen3":
            return qwen3.LAYER
        case "qwen3_moe":
            return qwen3_moe.LAYER if is_moe else qwen3.LAYER
        case "glm4":
            return glm4.BIASED_LAYER if shape.has_qkv_bias else glm4.LAYER
        case "deepseek_v3":
            assert shape.mla is not None
            return deepseek_v3.layer_rules(has_low_rank_query=shape.mla.q_lora_rank is not None, is_moe=is_moe)
    raise AssertionError(f"no rules for {shape.family}")


def _by_expert(rule: Rule, shape: ModelShape) -> Iterator[Rule]:
    if not rule.is_of_each_expert:
        yield rule
        return
    assert shape.moe is not None
    yield from (rule.of_expert(expert) for expert in range(shape.moe.num_experts))
