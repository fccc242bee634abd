"""Megatron's optimizer for a model, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from torch import Tensor

from slimrl.config.optimizer import OptimizerConfig
from slimrl.errors import CheckpointError
from slimrl.megatron.compat import without_megatron_warnings
from slimrl.megatron.model import PackedGpt
from slimrl.megatron.tensor_files import TensorReader

STATE = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
MASTER = "master"


class PolicyOptimizer:
    """Gradients in Megatron's buffers, clipping, and the update.

    Weight decay leaves biases and norms out, as Megatron does. In bfloat16 the update is made on float32 master
    weights; gradients are always summed in float32.
    """

    def __init__(self, model: PackedGpt, config: OptimizerConfig) -> None:
        self._config = config
        self._model = model
        is_bf16 = model.config.bf16
        with without_megatron_warnings():
            ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
            self.model = DistributedDataParallel(config=model.config, ddp_config=ddp_config, module=model)
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
                    # done here, after the norm was looked at
                    clip_grad=0.0,
                ),
                [self.model],
            )
        for group in self._optimizer.param_groups:
            # One pass over the weights instead of ten; Megatron has no setting for it.
            group["fused"], group["foreach"] = True, False
            # Megatron leaves this to its own schedule: the multiplier is 0 for biases and norms.
            group["weight_decay"] = config.weight_decay * group["wd_mult"]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad_buffer()
        self._optimizer.zero_grad()

    def grad_norm(self) -> float:
        """Norm of all summed gradients before clipping; call once, between the last backward pass and `step`."""
        self._optimizer.prepare_grads()
        return float(self._optimizer.get_grad_norm())

    def step(self, lr: float, grad_norm: float) -> None:
        """Clip to the configured norm and update the weights."""
        limit = self._config.clip_grad
        if limit > 0 and grad_norm > limit:
            self.model.scale_gradients(limit / (grad_norm + 1e-6))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step_with_ready_grads()

    def weights_changed(self) -> None:
        """Take the model's weights as they are now and start with a fresh optimizer state."""
        self._optimizer.reload_model_params()
        self._inner.state.clear()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything besides the weights, lazily, as `what/parameter`; nothing before the first step."""
        for name, parameter in self._masters():
            if parameter.dtype is torch.float32 and self._model.config.bf16:
                yield f"{MASTER}/{name}", parameter.detach()
            state = self._inner.state.get(parameter, {})
            for key in STATE[self._config.optimizer]:
                if state.get(key) is not None:
                    yield f"{key}/{name}", state[key]

    @torch.no_grad()
    def load_state(self, reader: TensorReader, num_steps: int) -> None:
        """Restore what `state` gave after `num_steps` steps; raises CheckpointError naming what is missing.

        Every parameter gets a step counter of its own: Adam counts it up in place, and a counter that all shared
        would run as many times too fast.
        """
        names = reader.names()
        self._inner.state.clear()
        for name, parameter in self._masters():
            if f"{MASTER}/{name}" in names:
                parameter.copy_(reader.read(f"{MASTER}/{name}"))
            if num_steps == 0:
                continue
            state: dict[str, Tensor] = {}
            for key in STATE[self._config.optimizer]:
                if f"{key}/{name}" not in names:
                    raise CheckpointError(
                        f"checkpoint {reader.folder} holds no {key} of {name}; resume with the --optimizer it was "
                        "saved with, or start anew without --load"
                    )
                stored = reader.read(f"{key}/{name}")
                if stored.shape != parameter.shape:
                    raise CheckpointError(
                        f"checkpoint {reader.folder}: {key} of {name} is {tuple(stored.shape)}, "
                        f"the model makes it {tuple(parameter.shape)}; resume with the model it was saved with"
                    )
                state[key] = stored.to(parameter.device, copy=True)
            if self._config.optimizer == "adam":
                state["step"] = torch.tensor(float(num_steps), device=parameter.device)
            self._inner.state[parameter] = state

    @property
    def _inner(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self._optimizer.optimizer
        return inner

    def _masters(self) -> Iterator[tuple[str, Tensor]]:
        weights: Mapping[str, Tensor] = dict(self._model.named_parameters())
        for name, parameter in weights.items():
            if parameter.requires_grad:
                yield name, getattr(parameter, "main_param", parameter)
