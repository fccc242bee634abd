"""All optimizer steps of one rollout."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.algorithms.packing import plan_micro_batches, split_rollouts
from slimrl.algorithms.reduction import token_weights
from slimrl.config.grpo import GrpoConfig
from slimrl.config.perf import PerfConfig
from slimrl.errors import TrainError
from slimrl.megatron.loss import FixedLogProbs, grpo_loss
from slimrl.megatron.metrics import step_metrics, summarise
from slimrl.megatron.micro_batch import MicroBatch, TrainedSample, build_micro_batch, trained_samples
from slimrl.megatron.optimizer import PolicyOptimizer
from slimrl.megatron.passes import Passes
from slimrl.megatron.timing import Timer
from slimrl.types import TrainBatch

MAX_TOKENS = 8192


@dataclass(frozen=True)
class Step:
    """One optimizer step: what is computed for it."""

    micro_batches: list[MicroBatch]
    num_samples: int
    num_skipped: int
    """Samples whose forward pass cannot change the gradient."""


class RolloutSteps:
    """Turns a rollout's batch into optimizer steps.

    A sample with zero advantage has no gradient unless a KL or entropy term gives it one, so its passes are left
    out; the means still count it. A step of such samples alone still updates the optimizer with a zero gradient,
    because moments and weight decay move on just the same.
    """

    def __init__(
        self,
        optimizer: PolicyOptimizer,
        grpo: GrpoConfig,
        perf: PerfConfig,
        *,
        temperature: float,
        num_steps: int,
        rollouts_per_step: int,
        device: torch.device,
    ) -> None:
        self.num_steps = num_steps
        self._optimizer = optimizer
        self._grpo = grpo
        self._perf = perf
        self._rollouts_per_step = rollouts_per_step
        self._device = device
        self._reference: Mapping[str, Tensor] | None = None
        self._passes = Passes(optimizer.model, temperature=temperature, entropy_has_grad=grpo.entropy_coef != 0)

    def set_reference(self, weights: Mapping[str, Tensor]) -> None:
        """Weights of the reference model by parameter name; kept, not copied."""
        self._reference = weights

    def run(
        self,
        batch: TrainBatch,
        advantages: NDArray[np.float32],
        num_updates: int,
        learning_rate: Callable[[int], float],
    ) -> dict[str, float]:
        """Make all steps, the first being update number `num_updates`; returns metrics averaged over the steps.

        `advantages` has one entry a response token of the batch.
        """
        timer = Timer(self._device)
        with timer("perf/train_pack_s"):
            steps = self._plan(batch, advantages)
        with timer("perf/train_log_probs_s"):
            fixed = self._fixed_log_probs(steps)
        per_step = []
        for number, step in enumerate(steps):
            update = num_updates + number
            where = f"step {batch.step}, optimizer step {update}"
            lr = learning_rate(update)
            with timer("perf/train_forward_backward_s"):
                self._optimizer.zero_grad()
                sums = self._forward_backward(step.micro_batches, fixed[number])
                metrics = step_metrics(sums)
                _check_finite(metrics, where)
            with timer("perf/train_optimizer_s"):
                metrics["train/grad_norm"] = self._optimizer.grad_norm()
                _check_finite(metrics, where)
                self._optimizer.step(lr, metrics["train/grad_norm"])
            metrics["train/lr"] = lr
            per_step.append(metrics)
        passes = ("perf/train_log_probs_s", "perf/train_forward_backward_s", "perf/train_optimizer_s")
        model_cpu_s = sum(timer.cpu_seconds[name] for name in passes)
        return {**summarise(per_step), **_counts(steps), **timer.seconds, "perf/train_model_cpu_s": model_cpu_s}

    def _forward_backward(
        self, micro_batches: Sequence[MicroBatch], fixed: Sequence[FixedLogProbs]
    ) -> list[Mapping[str, Tensor]]:
        if not micro_batches:
            return []
        return list(
            self._passes.forward_backward(
                micro_batches, lambda current, batch, number: grpo_loss(current, batch, fixed[number], self._grpo)
            )
        )

    def _plan(self, batch: TrainBatch, advantages: NDArray[np.float32]) -> list[Step]:
        samples = trained_samples(batch)
        try:
            members_per_step = split_rollouts(
                batch.rollout_ids, num_steps=self.num_steps, rollouts_per_step=self._rollouts_per_step
            )
        except ValueError as e:
            raise TrainError(f"step {batch.step}: {e}") from e
        return [self._plan_step(batch, advantages, samples, members) for members in members_per_step]

    def _plan_step(
        self,
        batch: TrainBatch,
        advantages: NDArray[np.float32],
        samples: Sequence[TrainedSample],
        members: NDArray[np.int64],
    ) -> Step:
        weights = self._weights(batch, samples, members)
        everything = self._grpo.use_kl_loss or self._grpo.entropy_coef != 0
        computed = [
            i
            for i in members.tolist()
            if len(samples[i].targets) and (everything or advantages[samples[i].places].any())
        ]
        max_samples, max_tokens = _limits(self._perf)
        plan = plan_micro_batches(
            [len(samples[i].inputs) for i in computed],
            batch.group_ids[computed].tolist(),
            max_samples=max_samples,
            max_tokens=max_tokens,
        )
        micro_batches = [
            build_micro_batch(
                [samples[computed[place]] for place in places],
                advantages=advantages,
                weights=[weights[computed[place]] for place in places],
                engine_log_probs=batch.log_probs,
                share_prefixes=self._perf.share_prefixes,
                device=self._device,
            )
            for places in plan
        ]
        return Step(micro_batches, len(members), len(members) - len(computed))

    def _weights(
        self, batch: TrainBatch, samples: Sequence[TrainedSample], members: NDArray[np.int64]
    ) -> dict[int, Tensor]:
        counts = [len(samples[i].targets) for i in members]
        rollouts, index = np.unique(batch.rollout_ids[members], return_inverse=True)
        weights = token_weights(
            torch.ones(sum(counts)),
            torch.from_numpy(np.repeat(index, counts)),
            num_rollouts=len(rollouts),
            per_token=self._grpo.calculate_per_token_loss,
        )
        return dict(zip(members.tolist(), weights.split_with_sizes(counts), strict=True))

    def _fixed_log_probs(self, steps: Sequence[Step]) -> list[list[FixedLogProbs]]:
        """Old and reference log-probs of every micro-batch of every step.

        The engine's log-probs, where they are the old policy's, are there already. Else with one step the old policy
        is the current one, so its log-probs come with the step's own forward pass.
        """
        flat = [batch for step in steps for batch in step.micro_batches]
        old: Sequence[Tensor | None] = [None] * len(flat)
        reference: Sequence[Tensor | None] = [None] * len(flat)
        if self._grpo.use_rollout_logprobs:
            old = [batch.engine_log_probs for batch in flat]
        elif flat and self.num_steps > 1:
            old = self._passes.log_probs(flat)
        if flat and self._reference is not None:
            with self._swapped(self._reference):
                reference = self._passes.log_probs(flat)
        pairs = iter([FixedLogProbs(*pair) for pair in zip(old, reference, strict=True)])
        return [[next(pairs) for _ in step.micro_batches] for step in steps]

    @contextlib.contextmanager
    def _swapped(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        parameters = dict(self._optimizer.model.module.named_parameters())
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = weights[name]
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]


def _limits(perf: PerfConfig) -> tuple[int | None, int | None]:
    """Samples or tokens per micro-batch, whichever rules."""
    if perf.micro_batch_size is not None and not perf.use_dynamic_batch_size:
        return perf.micro_batch_size, None
    return None, perf.max_tokens_per_gpu or MAX_TOKENS


def _check_finite(metrics: Mapping[str, float], where: str) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainError(f"{where}: {name} is {value}; the weights were not updated by this step")


def _counts(steps: Sequence[Step]) -> dict[str, float]:
    batches = [batch for step in steps for batch in step.micro_batches]
    return {
        "train/num_tokens": float(sum(len(batch) for batch in batches)),
        "train/num_input_tokens": float(sum(batch.num_sample_tokens for batch in batches)),
        "train/num_computed_tokens": float(sum(len(batch.packed) for batch in batches)),
        "train/num_micro_batches": float(len(batches)),
        "train/num_samples": float(sum(step.num_samples for step in steps)),
        "train/num_skipped_samples": float(sum(step.num_skipped for step in steps)),
    }
