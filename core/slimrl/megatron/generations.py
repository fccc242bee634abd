"""The weights that tokens were generated with which are still to be trained on (--keep-old-actor)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from slimrl.megatron.copies import Weights, cpu_copy, swapped
from slimrl.types import TrainBatch


class Generations:
    """Copies in the CPU's memory of what is trained, by version: the steps that the weights have seen.

    No token is older than `max_staleness` versions when it is trained on, so there is one copy more than that.
    """

    def __init__(self, parameters: Mapping[str, Tensor], max_staleness: int) -> None:
        self._parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._max_staleness = max_staleness
        self._kept: dict[int, Weights] = {}
        self._version = 0

    def keep(self, version: int) -> None:
        """Copy the weights as they are now, before they are trained on, and forget those that nothing needs."""
        self._version = version
        self._kept[version] = {name: cpu_copy(parameter.detach()) for name, parameter in self._parameters.items()}
        self._kept = {old: weights for old, weights in self._kept.items() if 0 <= version - old <= self._max_staleness}

    def of(self, batch: TrainBatch) -> Iterator[tuple[AbstractContextManager[None], Tensor]]:
        """For each version that trained tokens have: the model with its weights, and [response tokens] whose it is.

        The weights of tokens from before a run was resumed are gone; the oldest that are kept stand for them.
        """
        oldest = min(self._kept)
        versions = np.maximum(batch.weight_versions, oldest)
        for version in np.unique(versions[batch.loss_mask > 0]).tolist():
            yield self._at(version), torch.from_numpy(versions == version)

    def _at(self, version: int) -> AbstractContextManager[None]:
        if version == self._version:
            return contextlib.nullcontext()
        return swapped(self._parameters, self._kept[version])
