"""Functions of the user's in the trainer: each replaces what slimrl does, and equals it where it does the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimrl import AdvantageInput, advantage_traits
from slimrl.config import GrpoConfig, PerfConfig
from slimrl.errors import RolloutError, TrainError
from slimrl.megatron.functions import TrainFunctions
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.registry import Options, RunHookFunction
from slimrl.registry.adapt import adapt
from slimrl.registry.kinds import RunHook
from slimrl.registry.resolve import Resolved
from slimrl.types import LossTokens, TrainBatch, TrainReport

Train = Callable[..., TrainReport]


def hook(kind: RunHook, function: Any) -> RunHookFunction:
    adapted = adapt(kind, function, "mine.py:f")
    resolved = Resolved(
        *(kind, "mine.py:f", "f", None, None, None, "", adapted.shape, adapted.is_async, None, False, adapted.bind)
    )
    return RunHookFunction(resolved, Options([GrpoConfig(gamma=0.5)]))


@pytest.fixture
def train(
    checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer], make_batch: Callable[..., TrainBatch]
) -> Train:
    """One rollout of a fresh trainer with some functions."""

    def run(grpo: GrpoConfig, functions: dict[str, Any] | None = None, **perf: Any) -> TrainReport:
        kinds = {"reducer": "pg_loss_reducer", "postprocess": "data_postprocess"}
        made = {name: hook(kinds.get(name, f"custom_{name}"), f) for name, f in (functions or {}).items()}  # type: ignore[arg-type]
        settings = dict.fromkeys(perf.keys() & {"advantage", "max_response_len", "num_steps_per_rollout"})
        settings = {name: perf.pop(name) for name in settings}
        trainer = make_trainer(
            checkpoints["llama"], grpo=grpo, functions=TrainFunctions(**made), perf=PerfConfig(**perf), **settings
        )
        return trainer.train(make_batch())

    return run


def assert_same(one: TrainReport, other: TrainReport) -> None:
    for name in ("train/loss", "train/grad_norm"):
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-4), name


def test_an_advantage_function_takes_the_estimators_place(train: Train) -> None:
    def twice(rollout: AdvantageInput) -> Any:
        return rollout.rewards * 2

    def twice_in_slime(args: Any, rollout_data: dict[str, Any]) -> None:
        lengths = rollout_data["response_lengths"]
        factor = args.gamma * 4
        rollout_data["advantages"] = [
            torch.full((n,), r * factor) for n, r in zip(lengths, rollout_data["rewards"], strict=True)
        ]

    plain = train(GrpoConfig())
    for function in (twice, twice_in_slime):
        report = train(GrpoConfig(), {"advantage": function})
        np.testing.assert_allclose(report.advantages, plain.advantages * 2, rtol=1e-5)


def test_a_weight_function_that_truncates_is_truncated_importance_sampling(train: Train) -> None:
    def ours(log_probs: Any, rollout_log_probs: Any, lengths: Any) -> Any:
        assert int(lengths.sum()) == len(log_probs)
        return (log_probs - rollout_log_probs).exp().clamp(0, 2)

    def slimes(
        args: Any, *, pg_loss: Any, train_log_probs: Any, rollout_log_probs: Any, loss_masks: Any, **kwargs: Any
    ) -> Any:
        assert {*kwargs} == {"total_lengths", "response_lengths"}
        weights = (torch.cat(train_log_probs) - torch.cat(rollout_log_probs)).exp().clamp(0, 2)
        return pg_loss * weights, loss_masks, {"my_weight": weights}

    plain = train(GrpoConfig(use_tis=True))
    for function in (ours, slimes):
        report = train(GrpoConfig(use_tis=True), {"tis": function})
        assert_same(report, plain)
        assert report.metrics["train/correction_kl"] == pytest.approx(plain.metrics["train/correction_kl"])
        told = {name for name in report.metrics if name.startswith("train/correction_weight")}
        assert told == set()  # slimrl's own, which would all be 1, are not those that count
    assert 0 < report.metrics["train/my_weight"] <= 2


def test_a_token_that_a_weight_function_masks_is_in_no_term_of_the_loss(train: Train) -> None:
    def nothing(args: Any, pg_loss: Any, loss_masks: Any, **kwargs: Any) -> Any:
        return pg_loss, [mask * 0 for mask in loss_masks], {}

    report = train(GrpoConfig(use_tis=True), {"tis": nothing})
    assert (report.metrics["train/loss"], report.metrics["train/grad_norm"]) == (0, 0)


def test_a_loss_function_is_averaged_however_a_step_is_cut_up(train: Train) -> None:
    def loss(tokens: LossTokens) -> Any:
        ratio = (tokens.log_probs - tokens.old_log_probs).exp()
        clipped = ratio.clamp(0.8, 1.2)
        value = -torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages) - 0.1 * tokens.entropy
        return value, {"ratio": ratio.detach()}

    own = GrpoConfig(loss_type="custom_loss")
    whole = train(own, {"loss": loss})
    assert_same(whole, train(GrpoConfig(entropy_coef=0.1)))
    assert_same(train(own, {"loss": loss}, micro_batch_size=3), whole)
    assert whole.metrics["train/ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("takes_engines", [False, True])
def test_engine_and_trainer_are_compared_beside_a_loss_function_as_they_are_without(
    train: Train, takes_engines: bool
) -> None:
    own = GrpoConfig(loss_type="custom_loss", use_rollout_logprobs=takes_engines)
    found = train(own, {"loss": lambda tokens: -tokens.log_probs * tokens.advantages}).metrics
    expected = train(GrpoConfig(use_rollout_logprobs=takes_engines)).metrics
    for name in ("train/log_prob_abs_diff", "train/log_prob_abs_diff_max"):
        assert found[name] == pytest.approx(expected[name]), name
        assert found[name] > 0.1


def test_a_metric_that_only_some_micro_batches_have_is_named(train: Train) -> None:
    def loss(tokens: LossTokens) -> Any:
        return -tokens.log_probs, {"long": tokens.advantages} if len(tokens.lengths) > 1 else {}

    with pytest.raises(TrainError, match="the metric 'long' came with some micro-batches and not with others"):
        train(GrpoConfig(loss_type="custom_loss"), {"loss": loss}, micro_batch_size=2)


@pytest.mark.parametrize(
    ("kind", "function", "said"),
    [
        ("loss", lambda tokens: tokens.log_probs.sum(), r"loss function 'mine.py:f' returned a loss of shape \(\) for"),
        ("loss", lambda tokens: tokens.log_probs / 0, "returned a loss that is not finite"),
        ("tis", lambda a, b, lengths: [1.0], "returned importance weights of list for"),
        ("reducer", lambda total, lengths, masks, per_token: None, "returned NoneType; it returns a function"),
        ("reducer", lambda total, lengths, masks, per_token: lambda x: x, r"to shape \(\d+,\); it makes a tensor"),
        ("reducer", lambda total, lengths, masks, per_token: lambda x: x.sum() / 0, "which is not finite"),
    ],
)
def test_a_function_that_breaks_its_contract_is_named(train: Train, kind: str, function: Any, said: str) -> None:
    grpo = GrpoConfig(loss_type="custom_loss" if kind == "loss" else "policy_loss", use_tis=kind == "tis")
    with pytest.raises(RolloutError, match=said):
        train(grpo, {kind: function})


def test_where_no_advantages_are_made_a_loss_function_still_sees_every_token(train: Train) -> None:
    def likelihood(tokens: LossTokens) -> Any:
        assert not tokens.advantages.any()
        return -tokens.log_probs

    report = train(
        GrpoConfig(loss_type="custom_loss", disable_compute_advantages_and_returns=True), {"loss": likelihood}
    )
    assert not report.advantages.any()
    assert report.metrics["train/num_skipped_samples"] == 1  # it has no trained token
    assert report.metrics["train/grad_norm"] > 0


def test_log_probs_of_tokens_that_a_function_unmasks_are_computed_for_them(train: Train) -> None:
    def all_tokens(batch: TrainBatch, advantages: Any) -> None:
        batch.loss_mask[:] = 1

    # with --kl-coef there are log-probs of policy and reference before the function sees the batch
    report = train(GrpoConfig(kl_coef=0.1, use_kl_loss=True), {"postprocess": all_tokens})
    assert report.metrics["train/num_skipped_samples"] == 0
    for name in ("train/ppo_kl", "train/kl_loss"):
        assert report.metrics[name] == pytest.approx(0, abs=1e-5), name


def summed(divisor: float = 1.0, seen: list[Any] | None = None) -> Any:
    """A reducer: every trained token's loss over one and the same number."""

    def reducer(
        total_lengths: list[int], response_lengths: list[int], loss_masks: list[Any], calculate_per_token_loss: bool
    ) -> Any:
        assert [len(mask) for mask in loss_masks] == response_lengths == total_lengths
        if seen is not None:
            seen.append((sum(response_lengths), calculate_per_token_loss))

        def reduce(x: Any) -> Any:
            parts = zip(x.split(response_lengths), loss_masks, strict=True)
            return sum((part * mask).sum() for part, mask in parts) / divisor

        return reduce

    return reducer


@pytest.mark.parametrize("perf", [{}, {"micro_batch_size": 3}, {"num_steps_per_rollout": 3}], ids=str)
def test_a_reducer_that_sums_tokens_is_the_mean_over_tokens(train: Train, perf: dict[str, Any]) -> None:
    grpo, seen = GrpoConfig(calculate_per_token_loss=True, entropy_coef=0.1), []
    report = train(grpo, {"reducer": summed(seen=seen)}, **perf)
    assert_same(report, train(grpo, **perf))
    assert sum(count for count, _ in seen) == report.metrics["train/num_tokens"]
    assert {per_token for _, per_token in seen} == {True}


@pytest.mark.parametrize("perf", [{}, {"micro_batch_size": 3}], ids=str)
def test_a_reducer_may_divide_every_rollout_by_a_constant_as_dr_grpo_does(train: Train, perf: dict[str, Any]) -> None:
    @advantage_traits(divides_by_max_length=True)
    def given(rewards: Any, group_ids: Any) -> Any:
        return rewards

    expected = train(GrpoConfig(), advantage=given, max_response_len=7, **perf)
    report = train(GrpoConfig(), {"reducer": summed(divisor=7.0)}, **perf)
    assert_same(report, expected)
    assert report.metrics["train/pg_loss"] == pytest.approx(expected.metrics["train/pg_loss"], rel=1e-4)


def test_shares_of_tokens_are_shares_where_a_loss_is_divided_by_a_constant(train: Train) -> None:
    @advantage_traits(divides_by_max_length=True)
    def given(rewards: Any, group_ids: Any) -> Any:
        return rewards

    settings: dict[str, Any] = {"use_rollout_logprobs": True, "use_opsm": True, "opsm_delta": 0.0}
    found = train(GrpoConfig(**settings), advantage=given, max_response_len=70).metrics
    expected = train(GrpoConfig(**settings, calculate_per_token_loss=True)).metrics
    for name in ("train/clip_fraction", "train/opsm_fraction"):
        assert expected[name] > 0.05
        assert found[name] == pytest.approx(expected[name]), name


def test_a_reducer_sees_which_tokens_a_correction_rejects(train: Train) -> None:
    grpo = GrpoConfig(
        use_tis=True, tis_reject_level="token", tis_reject_low=0.05, tis_reject_high=0.3, calculate_per_token_loss=True
    )
    expected = train(grpo)
    assert (
        expected.metrics["train/loss"]
        != train(GrpoConfig(use_tis=True, calculate_per_token_loss=True)).metrics["train/loss"]
    )
    assert_same(train(grpo, {"reducer": summed()}), expected)
