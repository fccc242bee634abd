"""The rules of a whole model, by family."""

from __future__ import annotations

from dataclasses import replace

from slimrl.megatron.convert import llama, qwen2, qwen3
from slimrl.megatron.convert.rule import Rule
from slimrl.megatron.shape import ModelShape


def rules_for(shape: ModelShape) -> list[Rule]:
    """One rule for each parameter of the model, full names, in the order of a forward pass."""
    layer_rules = {"llama": llama.LAYER, "mistral": llama.LAYER, "qwen2": qwen2.LAYER, "qwen3": qwen3.LAYER}
    rules = list(llama.BEFORE_LAYERS)
    for layer in range(shape.num_layers):
        for rule in layer_rules[shape.family]:
            names = tuple(f"model.layers.{layer}.{name}" for name in rule.hf)
            rules.append(replace(rule, megatron=f"decoder.layers.{layer}.{rule.megatron}", hf=names))
    rules.extend(llama.AFTER_LAYERS)
    if not shape.has_tied_embeddings:
        rules.append(llama.OUTPUT)
    return rules
