"""Metrics of optimizer steps from the sums of their micro-batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from slimrl.algorithms.correction import correction_metrics
from slimrl.errors import TrainError
from slimrl.megatron.functions import OWN
from slimrl.megatron.loss import CORRECTION


def step_metrics(sums: Sequence[Mapping[str, Tensor | float]], weight: float = 1.0) -> dict[str, float]:
    """Metrics of one step; see `StepLoss` for the sums, and `Step` for the weight.

    Losses and shares of tokens are means over the whole step, samples that were skipped included (they add zero).
    Entropy, the drift of the policy and the differences to the engine are means over what was computed, and are
    left out where nothing was. Supervised fine-tuning has its loss and the perplexity of its tokens.
    """
    if partial := sorted({name for part in sums for name in part.keys() ^ sums[0].keys()}):
        raise TrainError(
            f"the metric {partial[0].removeprefix(OWN)!r} came with some micro-batches and not with others; the "
            "function that gives it must give it every time"
        )
    total = {name: sum(float(part[name]) for part in sums) for name in (sums[0] if sums else ())}
    if "nll" in total:
        return {"train/loss": total["loss"], "train/perplexity": math.exp(min(total["nll"] / total["tokens"], 700.0))}
    metrics = {
        "train/loss": total.get("loss", 0.0),
        "train/pg_loss": total.get("policy", 0.0),
    }
    if "clipped" in total or not sums:
        metrics["train/clip_fraction"] = total.get("clipped", 0.0) / weight
    if "kl" in total:
        metrics["train/kl_loss"] = total["kl"]
    if "masked" in total:
        metrics["train/opsm_fraction"] = total["masked"] / weight
    correction = {name.removeprefix(CORRECTION): value for name, value in total.items() if name.startswith(CORRECTION)}
    metrics |= correction_metrics(correction) if correction else {}
    if sums:
        metrics["train/entropy"] = total["entropy"] / total["weight"]
        metrics["train/ppo_kl"] = total["ppo_kl"] / total["weight"]
        own = {name.removeprefix(OWN): value for name, value in total.items() if name.startswith(OWN)}
        metrics |= {f"train/{name}": value / total["weight"] for name, value in own.items()}
        metrics["train/log_prob_abs_diff"] = total["mismatch"] / total["tokens"]
        metrics["train/log_prob_abs_diff_max"] = max(float(part["mismatch_max"]) for part in sums)
    return metrics


def summarise(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over the steps that have a metric; the largest where the name ends in _max, the last learning rate."""
    names = dict.fromkeys(name for step in steps for name in step)
    summary = {}
    for name in names:
        values = [step[name] for step in steps if name in step]
        if name.endswith("_max"):
            summary[name] = max(values)
        elif name.endswith("/lr"):
            summary[name] = values[-1]
        else:
            summary[name] = sum(values) / len(values)
    return summary


def check_finite(metrics: Mapping[str, float], where: str) -> None:
    """Raise TrainError for a number that is not finite; `where` says which step's it is."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainError(f"{where}: {name} is {value}; the weights were not updated by this step")
