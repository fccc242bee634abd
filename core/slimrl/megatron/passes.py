"""Forward and backward passes over micro-batches, on Megatron's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from slimrl.megatron.logprob import TokenLogProbs, token_log_probs
from slimrl.megatron.micro_batch import MicroBatch, Pack
from slimrl.megatron.model import PackedGpt

Loss = Callable[[TokenLogProbs, MicroBatch], tuple[Tensor, dict[str, Tensor]]]
"""Loss and metric sums from what the model says of a micro-batch's tokens."""


class Passes:
    """Runs a model over micro-batches; losses of a step add up over micro-batches and data-parallel ranks."""

    def __init__(self, ddp: DistributedDataParallel, *, temperature: float, entropy_has_grad: bool) -> None:
        self._ddp = ddp
        self._model: PackedGpt = ddp.module
        self._temperature = temperature
        self._entropy_has_grad = entropy_has_grad
        self._model.config.finalize_model_grads_func = finalize_model_grads

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: Loss) -> list[dict[str, Tensor]]:
        """Add the gradients of a step's micro-batches to Megatron's buffers; returns each one's metric sums."""
        # Megatron's schedule divides by the number of micro-batches and its DDP by the number of ranks.
        scale = len(micro_batches) * parallel_state.get_data_parallel_world_size()

        def step(left: Iterator[MicroBatch], model: DistributedDataParallel) -> Any:
            batch = next(left)

            def scaled_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                value, sums = loss(self._log_probs(hidden, batch.pack), batch)
                return value * scale, sums

            return model(batch.pack.packed), scaled_loss

        results: list[dict[str, Tensor]] = self._run(step, micro_batches, [batch.pack for batch in micro_batches])
        return results

    def log_probs(self, packs: Sequence[Pack]) -> list[Tensor]:
        """Log-probs [trained tokens] of each pack under the weights as they are, without gradients."""

        def step(left: Iterator[Pack], model: DistributedDataParallel) -> Any:
            pack = next(left)
            return model(pack.packed), lambda hidden, non_loss_data: self._log_probs(hidden, pack).log_probs

        with torch.no_grad():
            results: list[Tensor] = self._run(step, packs, packs, forward_only=True, collect_non_loss_data=True)
        return results

    def _log_probs(self, hidden: Tensor, pack: Pack) -> TokenLogProbs:
        return token_log_probs(
            hidden,
            self._model.output_weight,
            pack.rows,
            pack.targets,
            temperature=self._temperature,
            entropy_has_grad=self._entropy_has_grad,
        )

    # Any: Megatron's schedule
    def _run(
        self, step: Any, items: Sequence[MicroBatch] | Sequence[Pack], packs: Sequence[Pack], **kwargs: Any
    ) -> Any:
        return get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iter(items),
            model=self._ddp,
            num_microbatches=len(packs),
            # unused without pipeline parallelism
            seq_length=max(len(pack.packed) for pack in packs),
            micro_batch_size=1,
            **{"forward_only": False, **kwargs},
        )
