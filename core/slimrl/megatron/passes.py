"""Forward and backward passes over micro-batches, on Megatron's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, distributed

from slimrl.megatron.logprob import TokenLogProbs, token_log_probs
from slimrl.megatron.micro_batch import MicroBatch, Pack
from slimrl.megatron.model import PackedGpt
from slimrl.megatron.parallel import Parallel

Loss = Callable[[TokenLogProbs, MicroBatch], tuple[Tensor, dict[str, Tensor]]]
"""Loss and metric sums from what the model says of a micro-batch's tokens."""


class Passes:
    """Runs a model over micro-batches; losses of a step add up over micro-batches and data-parallel ranks."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        parallel: Parallel,
        *,
        temperature: float,
        entropy_has_grad: bool,
    ) -> None:
        self._chunks = chunks
        self._parallel = parallel
        self._temperature = temperature
        self._entropy_has_grad = entropy_has_grad
        for chunk in chunks:
            chunk.module.config.finalize_model_grads_func = finalize_model_grads

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: Loss) -> list[dict[str, Tensor]]:
        """Add the gradients of a step's micro-batches to Megatron's buffers.

        Returns each one's metric sums, of those that have samples, where the loss is computed.
        """
        # Megatron's schedule divides by the number of micro-batches and its DDP by the number of ranks.
        scale = len(micro_batches) * parallel_state.get_data_parallel_world_size()

        def step(left: Iterator[MicroBatch], model: DistributedDataParallel) -> Any:
            batch = next(left)

            def scaled_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                if not len(batch):
                    return hidden.sum() * 0, {}
                value, sums = loss(self._log_probs(hidden, batch.pack, model.module), batch)
                return value * scale, sums

            return model(batch.pack.packed), scaled_loss

        results: list[dict[str, Tensor]] = self._run(step, micro_batches, [batch.pack for batch in micro_batches])
        return [sums for sums in results if sums]

    def log_probs(self, packs: Sequence[Pack]) -> list[Tensor]:
        """Log-probs [trained tokens] of each pack under the weights as they are, without gradients.

        There are none before the last pipeline stage.
        """

        def step(left: Iterator[Pack], model: DistributedDataParallel) -> Any:
            pack = next(left)

            def log_probs(hidden: Tensor, non_loss_data: bool) -> Tensor:
                return self._log_probs(hidden, pack, model.module).log_probs

            return model(pack.packed), log_probs

        with torch.no_grad():
            results: list[Tensor] = self._run(step, packs, packs, forward_only=True, collect_non_loss_data=True)
        return results

    def _log_probs(self, hidden: Tensor, pack: Pack, model: PackedGpt) -> TokenLogProbs:
        found = token_log_probs(
            hidden,
            model.output_weight,
            pack.rows,
            pack.targets if pack.own is None else pack.targets[pack.own],
            temperature=self._temperature,
            entropy_has_grad=self._entropy_has_grad,
            share=model.vocabulary_share,
        )
        if pack.own is None:
            return found
        return TokenLogProbs(*(self._with_others(part, pack.own, len(pack)) for part in found))

    def _with_others(self, own: Tensor, places: Tensor, size: int) -> Tensor:
        """The numbers of all tokens, of which the others are constants: their gradients are those processes' part."""
        mine = own.new_zeros(size).index_copy(0, places, own)
        everyone = mine.detach().clone()
        distributed.all_reduce(everyone, group=self._parallel.context_group)
        return everyone + (mine - mine.detach())

    # Any: Megatron's schedule
    def _run(
        self, step: Any, items: Sequence[MicroBatch] | Sequence[Pack], packs: Sequence[Pack], **kwargs: Any
    ) -> Any:
        is_interleaved = len(self._chunks) > 1
        return get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=[iter(items) for _ in self._chunks] if is_interleaved else iter(items),
            model=list(self._chunks) if is_interleaved else self._chunks[0],
            num_microbatches=len(packs),
            # pipeline stages tell each other how many tokens come
            seq_length=max(len(pack.packed) for pack in packs),
            micro_batch_size=1,
            **{"forward_only": False, **kwargs},
        )
