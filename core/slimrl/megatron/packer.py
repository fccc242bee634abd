"""Which samples share a pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from slimrl.algorithms.balance import plan_ranks
from slimrl.algorithms.packing import plan_micro_batches
from slimrl.config.perf import PerfConfig
from slimrl.megatron.flops import forward_flops
from slimrl.megatron.micro_batch import Pack, TrainedSample, build_pack
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.shape import ModelShape

MAX_TOKENS = 8192
Limits = tuple[int | None, int | None]
"""Samples or tokens of a pass, whichever rules."""


class Packer:
    """Puts samples into passes; every process makes the same plan and the passes of its own part."""

    def __init__(self, shape: ModelShape, parallel: Parallel, perf: PerfConfig, device: torch.device) -> None:
        self._shape = shape
        self._parallel = parallel
        self._perf = perf
        self._device = device
        self._training = _limits(perf)
        without_gradients = perf.log_probs_max_tokens_per_gpu
        self._log_probs = self._training if without_gradients is None else (None, without_gradients)

    @property
    def has_one_size(self) -> bool:
        """Whether passes with and without gradients are the same."""
        return self._training == self._log_probs

    def for_training(
        self, samples: Sequence[TrainedSample], group_ids: NDArray[np.int64], chosen: Sequence[int]
    ) -> list[Pack]:
        """Passes over the chosen samples, of the sizes that fit with what the backward pass needs."""
        return self._packs(samples, group_ids, chosen, self._training)

    def for_log_probs(
        self, samples: Sequence[TrainedSample], group_ids: NDArray[np.int64], chosen: Sequence[int]
    ) -> list[Pack]:
        """The same of passes that only compute log-probs or values: without gradients more tokens fit."""
        return self._packs(samples, group_ids, chosen, self._log_probs)

    def num_over_long(self, samples: Iterable[TrainedSample]) -> int:
        """Samples with more tokens than a pass with gradients may have; each gets one to itself."""
        most = self._most_tokens(self._training)
        return 0 if most is None else sum(len(sample.inputs) > most for sample in samples)

    def _packs(
        self, samples: Sequence[TrainedSample], group_ids: NDArray[np.int64], chosen: Sequence[int], limits: Limits
    ) -> list[Pack]:
        lengths, groups = [len(samples[i].inputs) for i in chosen], group_ids[list(chosen)].tolist()
        layout, max_samples, tokens = self._parallel.layout, limits[0], self._most_tokens(limits)
        if layout.data_size == layout.chunks_per_stage == 1:
            plan = plan_micro_batches(lengths, groups, max_samples=max_samples, max_tokens=tokens)
        else:
            plan = plan_ranks(
                lengths,
                groups,
                num_ranks=layout.data_size,
                multiple=layout.pipeline_size if layout.chunks_per_stage > 1 else 1,
                max_samples=max_samples,
                max_tokens=tokens,
                balance=self._perf.balance_data,
                costs=self._costs(lengths) if self._perf.balance_by_flops else None,
            )[self._parallel.data_rank]
        return [
            build_pack(
                [samples[chosen[place]] for place in places],
                self._parallel,
                share_prefixes=self._perf.share_prefixes,
                device=self._device,
            )
            for places in plan
        ]

    def _most_tokens(self, limits: Limits) -> int | None:
        """Of a pass; each of the processes that share one has its part of the tokens."""
        _, max_tokens = limits
        return None if max_tokens is None else max_tokens * self._parallel.layout.context_size

    def _costs(self, lengths: Sequence[int]) -> list[float]:
        """Operations of each sample's forward pass."""
        return [forward_flops(self._shape, [length], num_outputs=length) for length in lengths]


def _limits(perf: PerfConfig) -> Limits:
    if perf.micro_batch_size is not None and not perf.use_dynamic_batch_size:
        return perf.micro_batch_size, None
    return None, perf.max_tokens_per_gpu or MAX_TOKENS
