"""Forward and backward passes over micro-batches, on Megatron's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

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
"""A policy's loss and metric sums from what the model says of a micro-batch's tokens."""


class HasPack(Protocol):
    """A micro-batch."""

    @property
    def pack(self) -> Pack: ...


Said = TypeVar("Said")
"""What the model says of a pack's trained tokens."""
Batch = TypeVar("Batch", bound=HasPack)
Reader = Callable[[Tensor, Pack, PackedGpt], Said]
"""What hidden states [predictors, hidden] of a pack say of its tokens."""


class Passes(Generic[Said]):
    """Runs a model over micro-batches; losses of a step add up over micro-batches and data-parallel ranks."""

    def __init__(self, chunks: Sequence[DistributedDataParallel], parallel: Parallel, reader: Reader[Said]) -> None:
        self._chunks = chunks
        self._parallel = parallel
        self._reader = reader
        for chunk in chunks:
            chunk.module.config.finalize_model_grads_func = finalize_model_grads

    def forward_backward(
        self, micro_batches: Sequence[Batch], loss: Callable[[Said, Batch], tuple[Tensor, dict[str, Tensor]]]
    ) -> list[Mapping[str, Tensor | float]]:
        """Add the gradients of a step's micro-batches to Megatron's buffers.

        Returns the metric sums of each that has samples, of all processes, whose rank plans are equally long.
        """
        if not micro_batches:
            return []
        # Megatron's schedule divides by the number of micro-batches and its DDP by the number of ranks.
        scale = len(micro_batches) * parallel_state.get_data_parallel_world_size()

        def step(left: Iterator[Batch], model: DistributedDataParallel) -> Any:
            batch = next(left)

            def scaled_loss(hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                if not len(batch.pack):
                    return hidden.sum() * 0, {}
                value, sums = loss(self._reader(hidden, batch.pack, model.module), batch)
                return value * scale, sums

            return model(batch.pack.packed), scaled_loss

        results: list[dict[str, Tensor]] = self._run(step, micro_batches, [batch.pack for batch in micro_batches])
        sums = [part for part in results if part]
        if self._parallel.layout.is_single:
            return list(sums)
        numbers = [{name: float(value) for name, value in part.items()} for part in sums]
        return [part for parts in self._parallel.gather(numbers) for part in parts]

    def read(self, packs: Sequence[Pack]) -> list[Said]:
        """What the model says of each pack under the weights as they are, without gradients.

        There is nothing before the last pipeline stage.
        """
        if not packs:
            return []

        def step(left: Iterator[Pack], model: DistributedDataParallel) -> Any:
            pack = next(left)

            def said(hidden: Tensor, non_loss_data: bool) -> Said:
                return self._reader(hidden, pack, model.module)

            return model(pack.packed), said

        with torch.no_grad():
            results: list[Said] = self._run(step, packs, packs, forward_only=True, collect_non_loss_data=True)
        return results if self._parallel.is_last_stage else []

    # Any: Megatron's schedule
    def _run(self, step: Any, items: Sequence[HasPack] | Sequence[Pack], packs: Sequence[Pack], **kwargs: Any) -> Any:
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


def log_prob_reader(parallel: Parallel, *, temperature: float, entropy_has_grad: bool) -> Reader[TokenLogProbs]:
    """Log-probs and entropies of the tokens."""

    def read(hidden: Tensor, pack: Pack, model: PackedGpt) -> TokenLogProbs:
        found = token_log_probs(
            hidden,
            model.output_weight,
            pack.rows,
            pack.targets if pack.own is None else pack.targets[pack.own],
            temperature=temperature,
            entropy_has_grad=entropy_has_grad,
            share=model.vocabulary_share,
        )
        return TokenLogProbs(*(with_others(part, pack, parallel) for part in found))

    return read


def with_others(own: Tensor, pack: Pack, parallel: Parallel) -> Tensor:
    """The numbers of all tokens, of which the others are constants: their gradients are those processes' part."""
    if pack.own is None:
        return own
    mine = own.new_zeros(len(pack)).index_copy(0, pack.own, own)
    everyone = mine.detach().clone()
    distributed.all_reduce(everyone, group=parallel.context_group)
    return everyone + (mine - mine.detach())
