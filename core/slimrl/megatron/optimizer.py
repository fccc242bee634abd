"""Megatron's optimizer for a model, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from torch import Tensor, distributed

from slimrl.config.optimizer import OptimizerConfig
from slimrl.errors import CheckpointError
from slimrl.megatron.checkpoint import OPTIMIZER_PIECES
from slimrl.megatron.compat import without_megatron_warnings
from slimrl.megatron.dist_files import StoredPieces
from slimrl.megatron.model import PackedGpt
from slimrl.megatron.pieces import Piece, beside, weight_pieces
from slimrl.megatron.shards import Shards
from slimrl.megatron.tensor_files import TensorReader

STATE = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
MASTER = "master"


class ModelOptimizer:
    """Gradients in Megatron's buffers, clipping, and the update.

    Weight decay leaves biases and norms out, as Megatron does. In bfloat16 the update is made on float32 master
    weights; gradients are always summed in float32.
    """

    def __init__(
        self, chunks: Sequence[PackedGpt], shards: Shards, config: OptimizerConfig, *, is_shared: bool = False
    ) -> None:
        self._config = config
        self._shards = shards
        self._is_shared = is_shared
        self._has_state = False
        self._keys = STATE[config.optimizer] if config.optimizer == "adam" or config.sgd_momentum else ()
        model_config = chunks[0].config
        self._is_bf16 = is_bf16 = bool(model_config.bf16)
        with without_megatron_warnings():
            ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=is_shared)
            self.chunks = [
                DistributedDataParallel(
                    config=model_config, ddp_config=ddp_config, module=chunk, disable_bucketing=number > 0
                )
                for number, chunk in enumerate(chunks)
            ]
            self._optimizer = get_megatron_optimizer(
                MegatronOptimizerConfig(
                    optimizer=config.optimizer,
                    lr=config.lr,
                    min_lr=config.min_lr,
                    weight_decay=config.weight_decay,
                    adam_beta1=config.adam_beta1,
                    adam_beta2=config.adam_beta2,
                    adam_eps=config.adam_eps,
                    sgd_momentum=config.sgd_momentum,
                    bf16=is_bf16,
                    params_dtype=torch.bfloat16 if is_bf16 else torch.float32,
                    use_distributed_optimizer=is_shared,
                    # done here, after the norm was looked at
                    clip_grad=0.0,
                ),
                self.chunks,
            )
        # of experts that are spread over processes there is an optimizer apart
        self._parts: list[Any] = getattr(self._optimizer, "chained_optimizers", [self._optimizer])
        for group in self._optimizer.param_groups:
            # One pass over the weights instead of ten; Megatron has no setting for it.
            group["fused"], group["foreach"] = True, False
            # Megatron leaves this to its own schedule: the multiplier is 0 for biases and norms.
            group["weight_decay"] = config.weight_decay * group["wd_mult"]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What this process has of each parameter, by the whole model's names."""
        return {name: parameter for name, (_, parameter) in self._shards.own.items()}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()

    def grad_norm(self) -> float:
        """Norm of all summed gradients before clipping; call once, between the last backward pass and `step`."""
        self._optimizer.prepare_grads()
        return float(self._optimizer.get_grad_norm())

    def step(self, lr: float, grad_norm: float) -> None:
        """Clip to the configured norm and update the weights."""
        limit = self._config.clip_grad
        if limit > 0 and grad_norm > limit:
            for chunk in self.chunks:
                chunk.scale_gradients(limit / (grad_norm + 1e-6))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step_with_ready_grads()
        self._has_state = True

    def weights_changed(self) -> None:
        """Take the model's weights as they are now and start with a fresh optimizer state."""
        self._optimizer.reload_model_params()
        for part in self._parts:
            part.optimizer.state.clear()
        self._has_state = False

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything besides the weights, lazily, as `what/parameter`; nothing before the first step.

        It comes in the first process; the others must go through it to the end to give their shares.
        """
        keys = self._saved_keys
        for rule in self._shards.trained_rules():
            for key in keys:
                own = self._own(rule.megatron, key) if rule.megatron in self._shards.own else None
                whole = self._shards.whole(rule, own, torch.float32)
                if whole is not None:
                    yield f"{key}/{rule.megatron}", whole

    def pieces(self) -> list[Piece]:
        """The same, but what each process has of it: no process asks another."""
        return [
            piece
            for key in self._saved_keys
            for pieces, slot in self._trained_pieces()
            for piece in beside(pieces, slot.get(key), key, start=slot.start, is_shared=self._is_shared)
        ]

    def resume(self, checkpoint: Path, num_steps: int) -> None:
        """Restore what was saved after `num_steps` steps; raises CheckpointError naming what is missing."""
        if (checkpoint / OPTIMIZER_PIECES).is_dir():
            self.load_pieces(StoredPieces(checkpoint / OPTIMIZER_PIECES), num_steps)
        else:
            self.load_state(TensorReader(checkpoint), num_steps)

    @torch.no_grad()
    def load_pieces(self, stored: StoredPieces, num_steps: int) -> None:
        """Restore what `pieces` gave after `num_steps` steps, whatever the layout was then; as `load_state` does."""
        self._forget(num_steps)
        there = stored.names()
        for pieces, slot in self._trained_pieces():
            state: dict[str, Tensor] = {}
            for key in [MASTER, *list(self._keys) * self._has_state]:
                numbers = slot.master.detach() if key == MASTER else torch.zeros_like(slot.master, dtype=torch.float32)
                for piece in beside(pieces, numbers, key, start=slot.start):
                    if key == MASTER and piece.key not in there:  # saved in another number format
                        continue
                    if piece.key not in there:
                        raise _lacks(stored.folder, piece.key)
                    stored.fill(piece)
                if key != MASTER:
                    state[key] = numbers
            self._restore(slot, state, num_steps)

    @torch.no_grad()
    def load_state(self, reader: TensorReader, num_steps: int) -> None:
        """Restore what `state` gave after `num_steps` steps; raises CheckpointError naming what is missing.

        Every parameter gets a step counter of its own: Adam counts it up in place, and a counter that all shared
        would run as many times too fast.
        """
        names = reader.names()
        self._forget(num_steps)
        for name, (rule, parameter) in self._shards.own.items():
            slot = self._slot(parameter) if parameter.requires_grad else None
            if slot is None:
                continue
            if f"{MASTER}/{name}" in names:
                slot.master.copy_(slot.of(self._shards.take_share(reader.read(f"{MASTER}/{name}"), rule)))
            if num_steps == 0:
                continue
            state: dict[str, Tensor] = {}
            for key in self._keys:
                if f"{key}/{name}" not in names:
                    raise _lacks(reader.folder, f"{key} of {name}")
                stored = self._shards.take_share(reader.read(f"{key}/{name}"), rule)
                if stored.shape != parameter.shape:
                    raise CheckpointError(
                        f"checkpoint {reader.folder}: {key} of {name} is {tuple(stored.shape)}, "
                        f"the model makes it {tuple(parameter.shape)}; resume with the model it was saved with"
                    )
                state[key] = slot.of(stored).to(parameter.device, copy=True)
            self._restore(slot, state, num_steps)

    @property
    def _saved_keys(self) -> list[str]:
        return [MASTER] * self._is_bf16 + list(self._keys) * self._has_state

    def _forget(self, num_steps: int) -> None:
        for part in self._parts:
            part.optimizer.state.clear()
        self._has_state = num_steps > 0

    def _restore(self, slot: _Slot, state: dict[str, Tensor], num_steps: int) -> None:
        if num_steps == 0:
            return
        if self._config.optimizer == "adam":
            state["step"] = torch.tensor(float(num_steps), device=slot.master.device)
        slot.optimizer.state[slot.master] = state

    def _trained_pieces(self) -> Iterator[tuple[list[Piece], _Slot]]:
        """The pieces of each parameter whose state this process has, and where that is."""
        for chunk in self.chunks:
            parameters = dict(chunk.module.named_parameters())
            for name, pieces in weight_pieces(chunk.module).items():
                slot = self._slot(parameters[name]) if parameters[name].requires_grad else None
                if slot is not None:
                    yield pieces, slot

    def _own(self, name: str, key: str) -> Tensor:
        """This process's share of a parameter's numbers, together with those who share its optimizer state."""
        parameter = self._shards.own[name][1]
        slot = self._slot(parameter)
        if not self._is_shared:
            assert slot is not None
            return slot.get(key)
        flat = torch.zeros(parameter.numel(), device=parameter.device)
        if slot is not None:
            slot.of(flat).copy_(slot.get(key))
        is_of_experts = not getattr(parameter, "allreduce", True)
        group = (
            parallel_state.get_expert_data_parallel_group()
            if is_of_experts
            else parallel_state.get_data_parallel_group(with_context_parallel=True)
        )
        distributed.all_reduce(flat, group=group)
        return flat.view(parameter.shape)

    def _slot(self, parameter: Tensor) -> _Slot | None:
        """Where the numbers of a parameter are; None where others that share the optimizer's state have them all."""
        if not self._is_shared:
            master = getattr(parameter, "main_param", parameter)
            part = next(part for part in self._parts if _has(part.optimizer, master))
            return _Slot(part.optimizer, master, None)
        for part in self._parts:
            if parameter in part.model_param_group_index_map:
                group, number = part.model_param_group_index_map[parameter]
                inside = part._get_model_param_range_map(parameter)["param"]
                master = part.optimizer.param_groups[group]["params"][number]
                return _Slot(part.optimizer, master, slice(inside.start, inside.end))
        return None


@dataclass(frozen=True)
class _Slot:
    """Where this process keeps the optimizer's numbers of a parameter."""

    optimizer: torch.optim.Optimizer
    master: Tensor
    part: slice | None
    """Of the flat parameter; None: all of it, in its shape."""

    @property
    def start(self) -> int:
        """The first element of the flat parameter."""
        return 0 if self.part is None else self.part.start

    def get(self, key: str) -> Tensor:
        """What this process keeps under a name."""
        found: Tensor = self.master.detach() if key == MASTER else self.optimizer.state[self.master][key]
        return found

    def of(self, whole: Tensor) -> Tensor:
        """The part of a tensor of the parameter's size."""
        return whole if self.part is None else whole.reshape(-1)[self.part]


def _lacks(folder: Path, what: str) -> CheckpointError:
    """Of a checkpoint of the same optimizer."""
    return CheckpointError(
        f"checkpoint {folder} holds no {what}; resume with the --freeze-params-name-list, "
        "--only-train-params-name-list and --sgd-momentum that it was saved with, or start anew without --load"
    )


def _has(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(parameter is one for group in optimizer.param_groups for one in group["params"])
