"""OPTIMIZER_ARGS: the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer settings."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer; adam decouples weight decay (AdamW)."""
    lr: float = 1e-6
    """Learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of a linear or cosine decay."""
    lr_decay_style: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule over all optimizer steps."""
    lr_warmup_iters: int = 0
    """Optimizer steps over which the learning rate rises linearly from 0."""
    critic_lr: float | None = None
    """Learning rate of the critic. Default: --lr."""
    critic_lr_warmup_iters: int | None = None
    """Optimizer steps over which the critic's learning rate rises. Default: --lr-warmup-iters."""
    weight_decay: float = 0.1
    """Weight decay coefficient."""
    adam_beta1: float = 0.9
    """Decay of Adam's first moment."""
    adam_beta2: float = 0.98
    """Decay of Adam's second moment."""
    adam_eps: float = 1e-8
    """Adam's denominator offset."""
    sgd_momentum: float = 0.9
    """Momentum of sgd."""
    clip_grad: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    use_distributed_optimizer: bool = False
    """Data-parallel processes share the optimizer's state instead of having all of it each (adam only)."""


def critic_optimizer(config: OptimizerConfig) -> OptimizerConfig:
    """What the critic is trained with: as the policy, but for its own learning rate and warm-up."""
    lr = config.lr if config.critic_lr is None else config.critic_lr
    warmup = config.lr_warmup_iters if config.critic_lr_warmup_iters is None else config.critic_lr_warmup_iters
    return replace(config, lr=lr, lr_warmup_iters=warmup)
