"""Importance weights, rejection and their metrics against hand-worked values and one sample at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimrl.algorithms.correction import (
    CorrectionRule,
    Level,
    correct,
    correction_metrics,
)

LN2 = math.log(2)
log_prob = st.floats(-4, 0, allow_nan=False)
samples_of_pairs = st.lists(st.lists(st.tuples(log_prob, log_prob), max_size=5), min_size=1, max_size=5).filter(any)
levels = st.sampled_from(("token", "sequence", "geometric"))
bounds = st.tuples(st.floats(0, 1), st.floats(1, 4))
rules = st.builds(
    lambda level, mode, band, reject, reject_band, veto: CorrectionRule(level, mode, *band, reject, *reject_band, veto),
    st.none() | levels,
    st.sampled_from(("clip", "truncate", "mask")),
    bounds,
    st.none() | levels,
    bounds,
    st.floats(0, 0.5),
)


def packed(samples: list[list[tuple[float, float]]]) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.tensor([token for sample in samples for token in sample], dtype=torch.float64)
    return *tokens.unbind(-1), torch.tensor([len(sample) for sample in samples])


def slow_ratios(sample: list[tuple[float, float]], level: Level) -> list[float]:
    differences = [train - rollout for train, rollout in sample]
    exponents = {
        "token": differences,
        "sequence": [sum(differences)] * len(sample),
        "geometric": [sum(differences) / max(len(sample), 1)] * len(sample),
    }[level]
    return [math.exp(max(-20.0, min(20.0, exponent))) for exponent in exponents]


def slow_correction(sample: list[tuple[float, float]], rule: CorrectionRule) -> tuple[list[float], list[bool]]:
    weights, kept = [1.0] * len(sample), [True] * len(sample)
    if rule.level is not None:
        for t, ratio in enumerate(slow_ratios(sample, rule.level)):
            match rule.mode:
                case "clip":
                    weights[t] = min(max(ratio, rule.low), rule.high)
                case "truncate":
                    weights[t] = min(ratio, rule.high)
                case "mask":
                    weights[t] = ratio if rule.low <= ratio <= rule.high else 0.0
    if rule.reject_level is not None:
        ratios = slow_ratios(sample, rule.reject_level)
        kept = [rule.reject_low <= ratio <= rule.reject_high for ratio in ratios]
    if any(ratio < rule.veto for ratio in slow_ratios(sample, "token")):
        kept = [False] * len(sample)
    return [w if k else 0.0 for w, k in zip(weights, kept, strict=True)], kept


# Two samples with log-ratios of ln 2 times (2, -1) and (-3): ratios 4, 1/2 and 1/8.
TRAIN = torch.tensor([-1.0, -2.0, -4.0])
ROLLOUT = TRAIN - torch.tensor([2 * LN2, -LN2, -3 * LN2])
LENGTHS = torch.tensor([2, 0, 1])


@pytest.mark.parametrize(
    ("rule", "weights", "kept"),
    [
        (CorrectionRule("token", "clip", 0.25, 2.0), [2.0, 0.5, 0.25], [True] * 3),
        (CorrectionRule("token", "mask", 0.5, 5.0), [4.0, 0.5, 0.0], [True] * 3),
        (CorrectionRule("token", "truncate", 0.25, 2.0), [2.0, 0.5, 0.125], [True] * 3),
        (CorrectionRule("sequence", "clip", 0.0, 9.0), [2.0, 2.0, 0.125], [True] * 3),
        (CorrectionRule("geometric", "clip", 0.0, 9.0), [2**0.5, 2**0.5, 0.125], [True] * 3),
        (CorrectionRule("sequence", "mask", 1.0, 3.0), [2.0, 2.0, 0.0], [True] * 3),
        (CorrectionRule(None, reject_level="token", reject_high=3.0), [0.0, 1.0, 1.0], [False, True, True]),
        (CorrectionRule(None, reject_level="geometric", reject_low=0.5), [1.0, 1.0, 0.0], [True, True, False]),
        (CorrectionRule("token", "clip", 0.0, 2.0, veto=0.2), [2.0, 0.5, 0.0], [True, True, False]),
        (CorrectionRule("token", "clip", 0.0, 2.0, veto=0.6), [0.0, 0.0, 0.0], [False, False, False]),
    ],
)
def test_weights_of_hand_worked_ratios(rule: CorrectionRule, weights: list[float], kept: list[bool]) -> None:
    found = correct(TRAIN, ROLLOUT, LENGTHS, rule)
    assert found.weights.tolist() == pytest.approx(weights)
    assert found.is_kept.tolist() == kept


def test_ratios_that_explode_are_bounded() -> None:
    train, rollout = torch.tensor([0.0, -900.0]), torch.tensor([-900.0, 0.0])
    found = correct(train, rollout, torch.tensor([1, 1]), CorrectionRule("token", "clip", 0.0, math.inf))
    assert found.weights.tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert all(math.isfinite(float(value)) for name, value in found.sums.items() if not name.endswith("_ppl"))


def test_a_veto_looks_at_ratios_that_are_not_bounded() -> None:
    train, rollout = torch.tensor([-40.0, -1.0, -20.0]), torch.tensor([0.0, -1.0, 0.0])
    found = correct(train, rollout, torch.tensor([2, 1]), CorrectionRule(veto=1e-10))
    assert found.is_kept.tolist() == [False, False, True]


def test_bands_look_at_ratios_that_are_not_bounded() -> None:
    train, rollout = torch.tensor([-15.0, -15.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, -2.0, -200.0])
    rule = CorrectionRule(None, reject_level="sequence", reject_low=1e-12, reject_high=1e12)
    assert correct(train, rollout, torch.tensor([2, 1, 1]), rule).is_kept.tolist() == [False, False, True, False]


def test_weights_give_no_gradient() -> None:
    train = TRAIN.clone().requires_grad_()
    assert not correct(train, ROLLOUT, LENGTHS, CorrectionRule("sequence")).weights.requires_grad


@given(samples_of_pairs, rules)
def test_correction_equals_one_sample_at_a_time(samples: list[list[tuple[float, float]]], rule: CorrectionRule) -> None:
    found = correct(*packed(samples), rule)
    expected = [slow_correction(sample, rule) for sample in samples]
    wide = [slow_ratios(sample, level) for sample in samples for level in ("token", "sequence", "geometric")]
    edges = (rule.low, rule.high, rule.reject_low, rule.reject_high, rule.veto)
    if all(abs(ratio - edge) > 1e-9 for ratios in wide for ratio in ratios for edge in edges):
        assert found.weights.tolist() == pytest.approx([w for weights, _ in expected for w in weights], abs=1e-9)
        assert found.is_kept.tolist() == [k for _, kept in expected for k in kept]


def test_metrics_of_hand_worked_ratios() -> None:
    found = correct(TRAIN, ROLLOUT, LENGTHS, CorrectionRule("token", "clip", 0.25, 2.0))
    metrics = correction_metrics({name: float(value) for name, value in found.sums.items()})
    weights = [2.0, 0.5, 0.25]
    expected = {
        "train_ppl": (math.exp(1.5) + math.exp(4)) / 2,
        "rollout_ppl": (math.exp(1.5 + LN2 / 2) + math.exp(4 - 3 * LN2)) / 2,
        "log_ppl_diff": (-LN2 / 2 + 3 * LN2) / 2,
        "log_ppl_abs_diff": (LN2 / 2 + 3 * LN2) / 2,
        "kl": 2 * LN2 / 3,
        "k3": (4 + 0.5 + 0.125 - 3 + 2 * LN2) / 3,
        "chi2_token": (16 + 0.25 + 1 / 64) / 3 - 1,
        "chi2_sequence": (4 + 1 / 64) / 2 - 1,
        "weight_mean": sum(weights) / 3,
        "weight_clipped_share": 2 / 3,
        "rejected_share": 0.0,
        "vetoed_share": 0.0,
        "ess": sum(weights) ** 2 / sum(w * w for w in weights) / 3,
    }
    assert metrics == pytest.approx({f"train/correction_{name}": value for name, value in expected.items()}, rel=1e-5)


@given(samples_of_pairs, rules, st.integers(0, 5))
def test_metrics_do_not_depend_on_the_cut_into_micro_batches(
    samples: list[list[tuple[float, float]]], rule: CorrectionRule, cut: int
) -> None:
    whole = correct(*packed(samples), rule).sums
    parts = [correct(*packed(part), rule).sums for part in (samples[:cut], samples[cut:]) if any(part)]
    added = {name: sum(float(part[name]) for part in parts) for name in whole}
    assert correction_metrics(added) == pytest.approx(
        correction_metrics({name: float(value) for name, value in whole.items()}), rel=1e-12, abs=1e-9
    )


def test_a_band_that_is_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low is 2\.0 and high is 1\.0; give 0 <= low <= high"):
        CorrectionRule("token", "clip", 2.0, 1.0)
    with pytest.raises(ValueError, match="reject_low is -1"):
        CorrectionRule(reject_low=-1)


def test_no_tokens_give_no_metrics() -> None:
    empty = torch.zeros(0)
    sums = correct(empty, empty, torch.tensor([0, 0]), CorrectionRule()).sums
    assert correction_metrics({name: float(value) for name, value in sums.items()}) == {}
