"""The learning rate of each optimizer step."""

from __future__ import annotations

import math

from slimrl.config.optimizer import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) out of `total_steps`.

    Warm-up step i of n has lr * (i + 1) / n, so no step is spent at zero. A decay starts at lr on the first step after
    it and is at min_lr on the last step and ever after.
    """
    if step < config.lr_warmup_iters:
        return config.lr * (step + 1) / config.lr_warmup_iters
    if config.lr_decay_style == "constant":
        return config.lr
    num_decay = total_steps - 1 - config.lr_warmup_iters
    progress = min((step - config.lr_warmup_iters) / num_decay, 1.0) if num_decay > 0 else 1.0
    share = 1.0 - progress if config.lr_decay_style == "linear" else (1.0 + math.cos(math.pi * progress)) / 2
    return config.min_lr + (config.lr - config.min_lr) * share
