"""LoRA: low-rank adapters beside frozen linear layers (Hu et al. 2021), an adapter for each Hugging Face module."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor

from slimrl.config.trained import ALL_LINEAR, TrainedConfig
from slimrl.errors import ConfigError
from slimrl.megatron.compat import mark_parameters
from slimrl.megatron.convert.family import rules_for
from slimrl.megatron.convert.place import Place, local_rules, take_share
from slimrl.megatron.convert.rule import COLUMNS, GATE_AND_UP, ROWS, Rule, Split
from slimrl.megatron.model import PackedGpt
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.trained import check_lists

Matrix = Literal["lora_A", "lora_B"]
LORA_A: Matrix = "lora_A"
LORA_B: Matrix = "lora_B"
MATRICES: tuple[Matrix, Matrix] = (LORA_A, LORA_B)


class LinearAdapter(torch.nn.Module):
    """What is added to one of Megatron's linear layers, in which several Hugging Face modules may be fused.

    Each module has its own two matrices. The ups of fused modules are put together as their weights are, each over
    its own columns, so that the layer costs two small products however many modules are in it.
    """

    def __init__(
        self,
        rule: Rule,
        weight: Tensor,
        shape: ModelShape,
        place: Place,
        config: TrainedConfig,
        *,
        is_sequence_parallel: bool,
    ) -> None:
        super().__init__()
        assert config.lora_rank is not None, "built only with adapters"
        self._rule, self._place, self._rank, self._scale = rule, place, config.lora_rank, config.lora_scale
        self._is_sequence_parallel = is_sequence_parallel
        # the heads of this tensor-parallel process
        self._shape = replace(
            shape,
            num_attention_heads=shape.num_attention_heads // place.tensor_size,
            num_query_groups=shape.num_query_groups // place.tensor_size,
        )
        self._modules_in_order = [_module(name) for name in rule.hf]
        parts = rule.split(torch.empty(weight.size(0), 1), self._shape)
        self._rows = [part.size(0) for part in parts]
        self.lora_A, self.lora_B = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        for module, rows in zip(self._modules_in_order, self._rows, strict=True):
            if _is_wanted(module, config):
                self.lora_A[module] = torch.nn.Parameter(weight.new_empty(self._rank, weight.size(1)))
                self.lora_B[module] = torch.nn.Parameter(weight.new_zeros(rows, self._rank))
        for matrices, name in ((self.lora_A, LORA_A), (self.lora_B, LORA_B)):
            is_shared = _share(rule, name) is not None
            for matrix in matrices.values():
                # for the gradient norm, and for the gradient of what every tensor-parallel process has of other tokens
                matrix.tensor_model_parallel = is_shared
                matrix.sequence_parallel = is_sequence_parallel and not is_shared

    def forward(self, x: Tensor) -> Tensor:
        """[..., input] to what is added to the layer's [..., output]."""
        low = F.linear(x, self._down()) * self._scale
        return F.linear(self._exchanged(low), self._up())

    def _exchanged(self, low: Tensor) -> Tensor:
        """What tensor-parallel processes tell each other: a few numbers a token, where the layer has a whole vector.

        Of a layer that they share by columns each has a part of the sum; of one shared by rows, with sequence
        parallelism, some of the tokens.
        """
        if self._place.tensor_size == 1:
            return low
        if self._rule.share == COLUMNS:
            exchange = (
                reduce_scatter_to_sequence_parallel_region
                if self._is_sequence_parallel
                else reduce_from_tensor_model_parallel_region
            )
        else:
            exchange = (
                gather_from_sequence_parallel_region
                if self._is_sequence_parallel
                else copy_to_tensor_model_parallel_region
            )
        exchanged: Tensor = exchange(low)
        return exchanged

    def merged(self, weight: Tensor) -> Tensor:
        """weight + scale * B A, computed in float32, in the weight's number format."""
        change = self._up().float() @ self._down().float()
        return torch.add(weight.float(), change, alpha=self._scale).to(weight.dtype)

    @torch.no_grad()
    def start(self, seed: int) -> None:
        """A as PEFT begins it, B zero: nothing is added yet. Each matrix has its own draw, whatever the layout."""
        for module, matrix in self.lora_A.items():
            generator = torch.Generator().manual_seed(seed ^ zlib.crc32(f"{self._rule.megatron} {module}".encode()))
            rule = matrix_rule(self._rule, LORA_A, module)
            width = matrix.size(1) * (1 if rule.share is None else self._place.tensor_size)
            bound = 1 / math.sqrt(width)
            whole = torch.empty(self._rank, width).uniform_(-bound, bound, generator=generator)
            matrix.copy_(take_share(whole, rule, self._place))
            self.lora_B[module].zero_()

    def _down(self) -> Tensor:
        """[rank of all, input]"""
        return torch.cat(tuple(self.lora_A.values()))

    def _up(self) -> Tensor:
        """[output, rank of all]"""
        width = self._rank * len(self.lora_B)
        columns: list[Tensor] = []
        done = 0
        any_b = next(iter(self.lora_B.values()))
        for module, rows in zip(self._modules_in_order, self._rows, strict=True):
            if module in self.lora_B:
                columns.append(F.pad(self.lora_B[module], (done, width - done - self._rank)))
                done += self._rank
            else:
                columns.append(any_b.new_zeros(rows, width))
        return self._rule.join(columns, self._shape)


def adapter_rules(shape: ModelShape, config: TrainedConfig) -> list[Rule]:
    """One rule for each matrix of all adapters, named as the whole model's parameters are.

    Raises ConfigError naming the targets that the model does not have.
    """
    if config.lora_rank is None:
        return []
    weights = [rule for rule in rules_for(shape) if _can_adapt(rule, shape)]
    names = {_module(hf) for rule in weights for hf in rule.hf}
    targets = set(config.lora_target_modules)
    if unknown := sorted(targets - names - {ALL_LINEAR}):
        raise ConfigError(
            f"--lora-target-modules: the model has no linear layer {', '.join(unknown)}; there are: "
            f"{', '.join(sorted(names))}"
        )
    return [
        matrix_rule(rule, matrix, _module(hf))
        for rule in weights
        for hf in rule.hf
        if _is_wanted(_module(hf), config)
        for matrix in MATRICES
    ]


def matrix_rule(rule: Rule, matrix: Matrix, module: str) -> Rule:
    """The rule of one matrix of the adapter of a weight."""
    (hf,) = (name for name in rule.hf if _module(name) == module)
    return Rule(
        f"{rule.megatron.removesuffix('.weight')}.adapter.{matrix}.{module}",
        (f"{hf.removesuffix('.weight')}.{matrix}.weight",),
        share=_share(rule, matrix),
        layer=rule.layer,
    )


def add_adapters(chunk: PackedGpt, shape: ModelShape, place: Place, config: TrainedConfig) -> None:
    """Put adapters beside the linear layers of a model, whose own parameters are frozen."""
    if config.lora_rank is None:
        return
    is_sequence_parallel = chunk.config.sequence_parallel
    for name, rule in list(local_rules(shape, place)):
        if _can_adapt(rule, shape) and any(_is_wanted(_module(hf), config) for hf in rule.hf):
            layer: Any = chunk.get_submodule(name.removesuffix(".weight"))  # Any: Megatron has no types
            layer.adapter = LinearAdapter(
                rule, layer.weight, shape, place, config, is_sequence_parallel=is_sequence_parallel
            )
            mark_parameters(layer.adapter)
            if not getattr(layer, "adds_adapter", False):  # a layer with a norm after it does so before the norm
                # before another hook puts the outputs of processes together
                layer.register_forward_hook(_add, prepend=True)


def freeze(chunk: torch.nn.Module, shape: ModelShape, place: Place, config: TrainedConfig) -> None:
    """Leave a model's parameters that are not trained without gradient, and so without optimizer state.

    Raises ConfigError when a pattern fits no parameter, or none of this part of the model is left to train.
    """
    check_lists([rule.megatron for rule in rules_for(shape)], config)
    for name, rule in local_rules(shape, place):
        if not config.trains(rule.megatron):
            chunk.get_parameter(name).requires_grad_(False)
    if config.lora_rank is None and not any(parameter.requires_grad for parameter in chunk.parameters()):
        raise ConfigError(
            "--freeze-params-name-list or --only-train-params-name-list leaves no parameter to train in the model, or "
            "in a pipeline stage's part of it"
        )


def adapters_of(chunk: torch.nn.Module, shape: ModelShape, place: Place) -> Iterator[tuple[str, LinearAdapter]]:
    """The adapters of a model, each with the name of the weight that it changes in the whole model."""
    for name, rule in local_rules(shape, place):
        adapter = getattr(chunk.get_submodule(name.rpartition(".")[0]), "adapter", None)
        if isinstance(adapter, LinearAdapter) and name.endswith(".weight"):
            yield rule.megatron, adapter


def peft_config(base: str, shape: ModelShape, config: TrainedConfig) -> Mapping[str, Any]:  # Any: JSON
    """adapter_config.json, as PEFT reads it."""
    assert config.lora_rank is not None
    modules = sorted({rule.hf[0].split(".")[-3] for rule in adapter_rules(shape, config)})
    alpha = config.lora_scale * config.lora_rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora_rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _add(layer: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
    return output[0] + layer.adapter(inputs[0]), output[1]


def _share(rule: Rule, matrix: Matrix) -> Split | None:
    """How tensor-parallel processes share a matrix of the adapter of a weight: as that, along the axis it has of it."""
    if rule.share == COLUMNS:
        return COLUMNS if matrix == LORA_A else None
    if matrix == LORA_A:
        return None
    return rule.share if len(rule.hf) == 1 else ROWS


def _is_wanted(module: str, config: TrainedConfig) -> bool:
    return module in config.lora_target_modules or ALL_LINEAR in config.lora_target_modules


def _can_adapt(rule: Rule, shape: ModelShape) -> bool:
    is_linear = rule.share in (ROWS, COLUMNS, GATE_AND_UP) and rule.megatron.endswith(".weight")
    # PEFT takes the names of feed-forward layers for routed experts where a model has them
    return is_linear and rule.place == "layer" and (shape.moe is None or ".self_attn." in rule.hf[0])


def _module(hf: str) -> str:
    return hf.split(".")[-2]
