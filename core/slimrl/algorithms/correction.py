"""Correction for the difference between the engine that samples and the trainer that learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from slimrl.algorithms.ragged import sample_means, spread

Level = Literal["token", "sequence", "geometric"]
"""Whose ratio: the token's, its sample's product, or its sample's geometric mean."""
Mode = Literal["clip", "truncate", "mask"]
"""Weights outside of the band: moved to its bound, to the upper bound only, or zero."""
MAX_LOG_RATIO = 20.0
OF_WEIGHTS = ("weight", "weight_square", "weight_clipped", "rejected", "vetoed")
"""Sums that say what a rule did; the others are of the log-probs alone."""


@dataclass(frozen=True)
class CorrectionRule:
    """How weights are made of ratios and which tokens are rejected.

    The default is TIS: the token's ratio, moved into [low, high] (Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training", https://fengyao.notion.site/off-policy-rl). With mode "mask" it is
    IcePop: the token's ratio, zero outside of [low, high] (Ling Team 2025, arXiv:2510.18855).
    """

    level: Level | None = "token"
    """None: every weight is one, and the rule only rejects."""
    mode: Mode = "clip"
    low: float = 0.0
    high: float = 2.0
    reject_level: Level | None = None
    """None: no band rejects anything."""
    reject_low: float = 0.0
    reject_high: float = math.inf
    veto: float = 0.0
    """A sample with a token whose ratio is below this is rejected as a whole; 0: none is."""

    def __post_init__(self) -> None:
        for name, low, high in (("", self.low, self.high), ("reject_", self.reject_low, self.reject_high)):
            if not 0 <= low <= high:
                raise ValueError(f"{name}low is {low} and {name}high is {high}; give 0 <= {name}low <= {name}high")


@dataclass(frozen=True)
class Correction:
    """What becomes of each token."""

    weights: Tensor
    """[tokens] what the policy loss is multiplied with; zero where a token is rejected; no gradient."""
    is_kept: Tensor
    """[tokens] bool: False for rejected tokens, which are in no term of the loss. Means still count them."""
    sums: dict[str, Tensor]
    """What `correction_metrics` makes metrics of; sums of micro-batches and ranks may be added up."""


def correct(log_probs: Tensor, rollout_log_probs: Tensor, lengths: Tensor, rule: CorrectionRule) -> Correction:
    """Importance weights of tokens that the engine sampled, for the policy as the trainer computes it.

    `log_probs` are the trainer's of the weights that sampled, `rollout_log_probs` the engine's, both [tokens];
    `lengths` is [samples], and all tokens of a sample must be here. With d = log_probs - rollout_log_probs a ratio is
    exp(d), exp(sum of d) or exp(mean of d) by level, of a weight with the exponent clamped to [-20, 20] (masked
    importance sampling: Liu et al. 2025, "When speed kills stability: demystifying RL collapse from the
    training-inference mismatch").
    The mean over a step keeps its denominator whatever is masked or rejected, so a rejection makes an update smaller
    and none of the other tokens larger.
    """
    with torch.no_grad():
        difference = log_probs - rollout_log_probs
        raw = torch.ones_like(difference) if rule.level is None else _exp(_log_ratio(difference, lengths, rule.level))
        weights, is_clipped = _bounded(raw, rule)
        is_kept = torch.ones_like(difference, dtype=torch.bool)
        # bands and veto are of ratios as they are: a bounded one is never below a small limit
        if rule.reject_level is not None:
            ratio = torch.exp(_log_ratio(difference, lengths, rule.reject_level))
            is_kept &= (ratio >= rule.reject_low) & (ratio <= rule.reject_high)
        is_vetoed = _any_of_sample(torch.exp(difference) < rule.veto, lengths)
        is_kept &= ~is_vetoed
        weights = weights * is_kept
        sums = _sums(log_probs, rollout_log_probs, lengths)
        sums |= {
            "weight": weights.sum(dtype=torch.float64),
            "weight_square": weights.double().square().sum(),
            "weight_clipped": is_clipped.sum(),
            "rejected": (~is_kept).sum(),
            "vetoed": is_vetoed.sum(),
        }
    return Correction(weights, is_kept, sums)


def correction_metrics(total: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a step from the added-up sums of its parts, with or without those of weights; empty without tokens.

    With d = log-prob of the trainer - log-prob of the engine: kl is the mean of -d and k3 that of exp(d) - 1 - d, both
    KL(engine || trainer); chi2 is the mean of exp(2d) - 1 over tokens, or of the samples' products. Perplexities are
    means over samples. ess is the effective sample size over the number of tokens, at most 1. Shares are of tokens.
    """
    tokens, samples = total["tokens"], total["samples"]
    if not tokens:
        return {}
    means = {
        "train_ppl": total["train_ppl"] / samples,
        "rollout_ppl": total["rollout_ppl"] / samples,
        "log_ppl_diff": total["log_ppl_diff"] / samples,
        "log_ppl_abs_diff": total["log_ppl_abs_diff"] / samples,
        "kl": -total["log_ratio"] / tokens,
        "k3": total["k3"] / tokens,
        "chi2_token": total["ratio_square"] / tokens - 1,
        "chi2_sequence": total["sequence_ratio_square"] / samples - 1,
    }
    if "weight" in total:
        means |= {
            "weight_mean": total["weight"] / tokens,
            "weight_clipped_share": total["weight_clipped"] / tokens,
            "rejected_share": total["rejected"] / tokens,
            "vetoed_share": total["vetoed"] / tokens,
            "ess": total["weight"] ** 2 / total["weight_square"] / tokens if total["weight_square"] else 0.0,
        }
    return {f"train/correction_{name}": value for name, value in means.items()}


def _log_ratio(difference: Tensor, lengths: Tensor, level: Level) -> Tensor:
    if level == "token":
        return difference
    means = sample_means(difference, lengths)
    return spread(means if level == "geometric" else means * lengths, lengths, len(difference))


def _exp(log_ratio: Tensor) -> Tensor:
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def _bounded(ratio: Tensor, rule: CorrectionRule) -> tuple[Tensor, Tensor]:
    if rule.level is None:
        return ratio, torch.zeros_like(ratio, dtype=torch.bool)
    is_outside = (ratio > rule.high) | ((ratio < rule.low) & (rule.mode != "truncate"))
    match rule.mode:
        case "clip":
            return ratio.clamp(rule.low, rule.high), is_outside
        case "truncate":
            return ratio.clamp(max=rule.high), is_outside
        case "mask":
            return torch.where(is_outside, 0.0, ratio), is_outside


def _any_of_sample(flags: Tensor, lengths: Tensor) -> Tensor:
    return spread(sample_means(flags.float(), lengths) > 0, lengths, len(flags))


def _sums(log_probs: Tensor, rollout_log_probs: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    difference = (log_probs - rollout_log_probs).double()
    has_tokens = lengths > 0
    train, rollout = (-sample_means(values.double(), lengths)[has_tokens] for values in (log_probs, rollout_log_probs))
    ratio = _exp(difference)
    sequence_ratio = _exp((rollout - train) * lengths[has_tokens])
    return {
        "tokens": torch.tensor(float(len(difference)), device=difference.device),
        "samples": has_tokens.sum(),
        "train_ppl": train.exp().sum(),
        "rollout_ppl": rollout.exp().sum(),
        "log_ppl_diff": (train - rollout).sum(),
        "log_ppl_abs_diff": (train - rollout).abs().sum(),
        "log_ratio": difference.sum(),
        "k3": (torch.expm1(difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) - difference).sum(),
        "ratio_square": ratio.square().sum(),
        "sequence_ratio_square": sequence_ratio.square().sum(),
    }
