"""All optimizer steps of one rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.algorithms.packing import split_rollouts
from slimrl.algorithms.reduction import token_weights
from slimrl.config.grpo import GrpoConfig
from slimrl.config.perf import PerfConfig
from slimrl.errors import TrainError
from slimrl.megatron.advantages import Advantages
from slimrl.megatron.copies import Weights, swapped
from slimrl.megatron.critic import Critic, ValueTargets
from slimrl.megatron.distillation import Distillation, teachers_answers
from slimrl.megatron.flops import forward_flops, speed_metrics
from slimrl.megatron.functions import CustomLoss, TrainFunctions
from slimrl.megatron.generations import Generations
from slimrl.megatron.known import Known
from slimrl.megatron.loss import StepLoss, sft_step_loss
from slimrl.megatron.metrics import check_finite, step_metrics, summarise
from slimrl.megatron.micro_batch import MicroBatch, Pack, TokenArrays, TrainedSample, trained_samples
from slimrl.megatron.optimizer import ModelOptimizer
from slimrl.megatron.packer import Packer
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.passes import Loss, Passes, log_prob_reader
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.step import Step, passes_of, samples_of
from slimrl.megatron.timing import Timer
from slimrl.traits import AdvantageTraits
from slimrl.types import TrainBatch

NO_FUNCTIONS = TrainFunctions()


Estimate = Callable[[Known], Advantages]
"""The advantages of a batch, given the log-probs and values that its estimator needs."""


class RolloutSteps:
    """Turns a rollout's batch into optimizer steps.

    A sample with zero advantage has no gradient unless a KL or entropy term gives it one, so its passes are left
    out; the means still count it. A step of such samples alone still updates the optimizer with a zero gradient,
    because moments and weight decay move on just the same.
    """

    def __init__(
        self,
        optimizer: ModelOptimizer,
        shape: ModelShape,
        parallel: Parallel,
        grpo: GrpoConfig,
        perf: PerfConfig,
        *,
        traits: AdvantageTraits,
        max_response_len: int | None,
        temperature: float,
        num_steps: int,
        rollouts_per_step: int,
        device: torch.device,
        critic: Critic | None = None,
        functions: TrainFunctions = NO_FUNCTIONS,
        max_staleness: int = 0,
    ) -> None:
        self.num_steps = num_steps
        self._optimizer = optimizer
        self._shape = shape
        self._parallel = parallel
        self._grpo = grpo
        self._packer = Packer(shape, parallel, perf, device)
        self._rollouts_per_step = rollouts_per_step
        self._device = device
        self._critic = critic
        self._is_sft = grpo.loss_type == "sft_loss"
        self._loss: Loss = sft_step_loss
        if not self._is_sft:
            self._loss = StepLoss(grpo, traits.policy_loss, functions.tis, functions.reducer)
        is_custom = functions.loss is not None
        if functions.loss is not None:
            self._loss = CustomLoss(functions.loss, bool(grpo.use_rollout_logprobs))
        is_custom_sum = functions.reducer is not None
        self._every_sample = is_custom or is_custom_sum or grpo.use_kl_loss or grpo.entropy_coef != 0
        self._tokens_per_rollout = max_response_len if traits.divides_by_max_length else None
        self._distillation = Distillation.of(grpo)
        self._reference: Weights | None = None
        self._teacher: Weights | None = None
        self._generations = Generations(optimizer.parameters, max_staleness) if grpo.keep_old_actor else None
        reader = log_prob_reader(
            parallel, temperature=temperature, entropy_has_grad=grpo.entropy_coef != 0 or is_custom
        )
        self._passes = Passes(optimizer.chunks, parallel, reader)

    def set_reference(self, weights: Weights) -> None:
        """The reference model; kept, not copied."""
        self._reference = weights

    def set_teacher(self, weights: Weights) -> None:
        """The teacher of --opd-type megatron; kept, not copied."""
        self._teacher = weights

    def run(
        self, batch: TrainBatch, estimate: Estimate, num_updates: int, learning_rate: Callable[[int], float]
    ) -> tuple[dict[str, float], NDArray[np.float32]]:
        """Make all steps, the first being update number `num_updates`; a critic makes its own before them.

        Returns metrics averaged over the steps, and the mean advantage of each sample.
        """
        timer = Timer(self._device)
        if self._generations is not None:
            with timer("perf/train_keep_s"):
                self._generations.keep(batch.step)
        known = self._known(batch, timer)
        advantages = estimate(known)
        first = {} if self._distillation is None else self._distillation.metrics(batch, known)
        if self._critic is not None:
            first |= self._train_critic(self._critic, batch, known, advantages, timer)
            if batch.step < self._grpo.num_critic_only_steps:
                return {**first, **timer.seconds}, advantages.per_sample
        if (advantages.batch.loss_mask > batch.loss_mask).any():
            # a function of the user's unmasked tokens that nothing is known of yet
            known = replace(known, log_probs=None, ref_log_probs=None)
        batch = advantages.batch
        with timer("perf/train_pack_s"):
            samples = trained_samples(batch)
            steps = self._plan(batch, advantages.per_token, samples)
        with timer("perf/train_log_probs_s"):
            tokens = self._token_arrays(batch, advantages.per_token, samples, steps, known)
        per_step = []
        for number, step in enumerate(steps):
            update = num_updates + number
            where = f"step {batch.step}, optimizer step {update}"
            lr = learning_rate(update)
            with timer("perf/train_forward_backward_s"):
                self._optimizer.zero_grad()
                micro_batches = [MicroBatch(pack, tokens.at(pack.places)) for pack in step.packs]
                loss = replace(self._loss, share=step.share) if isinstance(self._loss, StepLoss) else self._loss
                metrics = step_metrics(self._passes.forward_backward(micro_batches, loss), step.weight)
                check_finite(metrics, where)
            with timer("perf/train_optimizer_s"):
                metrics["train/grad_norm"] = self._optimizer.grad_norm()
                check_finite(metrics, where)
                self._optimizer.step(lr, metrics["train/grad_norm"])
            metrics["train/lr"] = lr
            per_step.append(metrics)
        passes = ("perf/train_log_probs_s", "perf/train_forward_backward_s", "perf/train_optimizer_s")
        own = {**passes_of(steps), "perf/train_model_cpu_s": sum(timer.cpu_seconds[name] for name in passes)}
        counts = {name: sum(one[name] for one in self._parallel.gather(own)) for name in own}
        computed = [samples[i] for step in steps for i in step.computed]
        counts["train/num_over_long_samples"] = float(self._packer.num_over_long(computed))
        speed = self._speed(computed, timer.seconds["perf/train_forward_backward_s"])
        metrics = {**first, **summarise(per_step), **counts, **samples_of(steps), **timer.seconds, **speed}
        return metrics, advantages.per_sample

    def _speed(self, trained: Sequence[TrainedSample], seconds: float) -> dict[str, float]:
        """Of the forward and backward passes; a sample counts in full, also where it shares them with another."""
        lengths = [len(sample.inputs) for sample in trained]
        num_outputs = sum(len(sample.targets) for sample in trained)
        flops = 3 * forward_flops(self._shape, lengths, num_outputs=num_outputs)  # a backward pass is two forward ones
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        return speed_metrics(flops, sum(lengths), seconds, name, self._parallel.layout.world_size)

    def _plan(self, batch: TrainBatch, advantages: NDArray[np.float32], samples: Sequence[TrainedSample]) -> list[Step]:
        steps = []
        for members in self._members_per_step(batch):
            computed = [
                i
                for i in members.tolist()
                if len(samples[i].targets) and (self._every_sample or advantages[samples[i].places].any())
            ]
            packs = self._packer.for_training(samples, batch.group_ids, computed)
            num_tokens = sum(len(samples[i].targets) for i in members.tolist())
            num_rollouts = len(np.unique(batch.rollout_ids[members]))
            whole = num_tokens if self._grpo.calculate_per_token_loss else num_rollouts
            step = Step(packs, computed, len(members), 1 / max(whole, 1))
            if self._tokens_per_rollout and num_tokens:
                step = replace(step, weight=num_tokens / self._tokens_per_rollout / num_rollouts)
            steps.append(step)
        return steps

    def _members_per_step(self, batch: TrainBatch) -> list[NDArray[np.int64]]:
        try:
            return split_rollouts(
                batch.rollout_ids, num_steps=self.num_steps, rollouts_per_step=self._rollouts_per_step
            )
        except ValueError as e:
            raise TrainError(f"step {batch.step}: {e}") from e

    def _known(self, batch: TrainBatch, timer: Timer) -> Known:
        """What advantages are made of: values; log-probs where the KL divergence or a teacher has a part in them."""
        known, grpo = Known(), self._grpo
        if not grpo.kl_coef and self._critic is None and self._distillation is None:
            return known
        samples = trained_samples(batch)
        packs = self._packer.for_log_probs(samples, batch.group_ids, _trained(samples, range(len(batch))))
        size = len(batch.log_probs)
        takes_engines = self._distillation is None or self._distillation.takes_engines
        with timer("perf/train_log_probs_s"):
            if grpo.kl_coef or not takes_engines:
                known = replace(known, log_probs=self._everywhere(self._old_log_probs(packs, batch)))
            if grpo.kl_coef:
                known = replace(known, ref_log_probs=self._everywhere(self._reference_log_probs(packs, size)))
            if self._teacher is not None:
                with swapped(self._optimizer.parameters, self._teacher):
                    said = self._everywhere(self._log_probs(packs, size))
                known = replace(known, teacher_log_probs=said)
            elif self._distillation is not None:
                known = replace(known, teacher_log_probs=teachers_answers(batch))
        if self._critic is not None:
            with timer("perf/critic_values_s"):
                values = self._everywhere(self._flat(packs, self._critic.values(packs), size))
            known = replace(known, values=values)
        return known

    def _everywhere(self, flat: Tensor) -> NDArray[np.float32]:
        """Numbers that each process has some of, for all."""
        found: NDArray[np.float32] = self._parallel.add_up(flat).cpu().numpy()
        return found

    def _train_critic(
        self, critic: Critic, batch: TrainBatch, known: Known, advantages: Advantages, timer: Timer
    ) -> dict[str, float]:
        """The critic's steps: on the same samples as the policy's, but on all of them, whatever their advantage.

        It learns the tokens that the estimator saw: one that a function of the user's unmasks later has no return.
        """
        assert known.values is not None and advantages.returns is not None, "advantages_of has seen to it"
        samples = trained_samples(batch)
        steps = [
            self._packer.for_training(samples, batch.group_ids, _trained(samples, members))
            for members in self._members_per_step(batch)
        ]
        weights = self._weights(batch).to(self._device)
        targets = ValueTargets(weights, self._on_device(known.values), self._on_device(advantages.returns))
        return critic.train(steps, targets, timer, f"step {batch.step}")

    def _token_arrays(
        self,
        batch: TrainBatch,
        advantages: NDArray[np.float32],
        samples: Sequence[TrainedSample],
        steps: Sequence[Step],
        known: Known,
    ) -> TokenArrays:
        """Everything that the loss reads, by response token.

        With one step the old policy is the current one, so its log-probs come with the step's own forward pass.
        """
        engine = self._on_device(batch.log_probs)
        old = None if known.log_probs is None else self._on_device(known.log_probs)
        reference = None if known.ref_log_probs is None else self._on_device(known.ref_log_probs)
        size = len(batch.log_probs)
        is_asked = self.num_steps > 1 or self._generations is not None
        needs_old = old is None and is_asked and not (self._grpo.use_rollout_logprobs or self._is_sft)
        needs_reference = reference is None and self._grpo.use_kl_loss
        if needs_old or needs_reference:
            packs = self._log_prob_packs(batch, samples, steps)
            old = self._of_own_samples(self._old_log_probs(packs, batch)) if needs_old else old
            reference = self._of_own_samples(self._reference_log_probs(packs, size)) if needs_reference else reference
        return TokenArrays(
            advantages=self._on_device(advantages),
            weights=self._weights(batch).to(self._device),
            engine_log_probs=engine,
            old_log_probs=engine if self._grpo.use_rollout_logprobs else old,
            ref_log_probs=reference,
        )

    def _of_own_samples(self, flat: Tensor) -> Tensor:
        """Log-probs of the samples that this process trains: packs of their own may give them to another."""
        return flat if self._packer.has_one_size else self._parallel.add_up(flat)

    def _log_prob_packs(self, batch: TrainBatch, samples: Sequence[TrainedSample], steps: Sequence[Step]) -> list[Pack]:
        """The steps' own packs, or larger ones where passes without gradients may have more tokens."""
        if self._packer.has_one_size:
            return [pack for step in steps for pack in step.packs]
        computed = [i for step in steps for i in step.computed]
        return self._packer.for_log_probs(samples, batch.group_ids, computed)

    def _log_probs(self, packs: Sequence[Pack], size: int) -> Tensor:
        """Log-probs of the packs' tokens under the weights as they are: [response tokens], on the last stage."""
        return self._flat(packs, [said.log_probs for said in self._passes.read(packs)], size)

    def _old_log_probs(self, packs: Sequence[Pack], batch: TrainBatch) -> Tensor:
        """The same before the first step; with --keep-old-actor under the weights that generated each token."""
        size = len(batch.log_probs)
        if self._generations is None:
            return self._log_probs(packs, size)
        old = torch.zeros(size, device=self._device)
        for generation, is_of_it in self._generations.of(batch):
            with generation:
                old += self._log_probs(packs, size) * is_of_it.to(self._device)
        return old

    def _flat(self, packs: Sequence[Pack], parts: Sequence[Tensor], size: int) -> Tensor:
        """Numbers of the packs' tokens as numbers of all response tokens, zeros for the others, or for all."""
        flat = torch.zeros(size, device=self._device)
        for pack, part in zip(packs, parts, strict=bool(parts)):
            flat[pack.places] = part
        return flat

    def _reference_log_probs(self, packs: Sequence[Pack], size: int) -> Tensor:
        assert self._reference is not None, "loaded where a setting asks for it"
        with swapped(self._optimizer.parameters, self._reference):
            return self._log_probs(packs, size)

    def _weights(self, batch: TrainBatch) -> Tensor:
        """[response tokens] each token's share in its step's mean."""
        starts = np.concatenate(([0], batch.response_lengths.astype(np.int64).cumsum()))
        weights = torch.zeros(len(batch.log_probs))
        for members in self._members_per_step(batch):
            places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in members] or [np.arange(0)])
            rollouts, index = np.unique(batch.rollout_ids[members], return_inverse=True)
            weights[places] = token_weights(
                torch.from_numpy(batch.loss_mask[places]),
                torch.from_numpy(np.repeat(index, batch.response_lengths[members])),
                num_rollouts=len(rollouts),
                per_token=self._grpo.calculate_per_token_loss,
                tokens_per_rollout=self._tokens_per_rollout,
            )
        return weights

    def _on_device(self, array: NDArray[np.float32]) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self._device)


def _trained(samples: Sequence[TrainedSample], members: Iterable[int]) -> list[int]:
    """Those of some samples that have tokens to train on."""
    return [int(i) for i in members if len(samples[i].targets)]
