"""Named weights that can be replaced in place: all of a batch is checked before the first is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from slimrl.engines.embedded.checkpoint import FLOAT_DTYPES
from slimrl.engines.embedded.matrix import Matrix
from slimrl.errors import EngineError

if TYPE_CHECKING:
    from slimrl.engines.embedded.checkpoint import Checkpoint


class Weight(Protocol):
    """One tensor by its HF name, wherever the model keeps it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self) -> torch.Tensor: ...

    def write(self, tensor: torch.Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor that is stored as it is."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """As HF has it."""
        return tuple(self.tensor.shape)

    def read(self) -> torch.Tensor:
        """The tensor itself."""
        return self.tensor

    def write(self, tensor: torch.Tensor) -> None:
        """Replace its values."""
        self.tensor.copy_(tensor)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a matrix that holds several tensors."""

    matrix: Matrix
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """As HF has it."""
        return self.matrix.part_shape(self.index)

    def read(self) -> torch.Tensor:
        """The rows, perhaps a copy."""
        return self.matrix.read(self.index)

    def write(self, tensor: torch.Tensor) -> None:
        """Replace the rows."""
        self.matrix.write(self.index, tensor)


class NamedWeights:
    """The weights of a model by HF name."""

    def __init__(self, weights: Mapping[str, Weight], aliases: Mapping[str, str]) -> None:
        self._weights = dict(weights)
        self._aliases = dict(aliases)
        """Names that checkpoints may carry for a tensor that has another name here: a tied head."""

    def __getitem__(self, name: str) -> Weight:
        """A weight by HF name; raises EngineError when the model has none of that name."""
        try:
            return self._weights[self._aliases.get(name, name)]
        except KeyError:
            raise EngineError(f"the model has no weight {name!r}") from None

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise EngineError unless every name is known and has its shape."""
        for name, shape in shapes.items():
            wanted = self[name].shape
            if tuple(shape) != wanted:
                raise EngineError(f"weight {name!r} has shape {list(shape)}; the model's is {list(wanted)}")

    def load(self, checkpoint: Checkpoint) -> None:
        """Copy a whole checkpoint; raises EngineError, weights untouched, when it does not fit the model."""
        shapes = {name: shape for name, shape in checkpoint.shapes.items() if not _is_buffer(name)}
        self.check(shapes)
        for name in shapes:
            if checkpoint.dtypes[name] not in FLOAT_DTYPES:
                raise EngineError(f"weight {name!r} in {checkpoint.folder} has dtype {checkpoint.dtypes[name]}")
        missing = set(self._weights) - {self._aliases.get(name, name) for name in shapes}
        if missing:
            raise EngineError(f"{checkpoint.folder} lacks {len(missing)} weights, the first {min(missing)!r}")
        self.copy((name, tensor) for name, tensor in checkpoint if name in shapes)

    def copy(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy tensors whose names and shapes `check` has accepted; casts to the model's dtype."""
        with torch.inference_mode():
            for name, tensor in tensors:
                self[name].write(tensor)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every tensor's bytes, by name."""
        return {name: _sha256(weight.read()) for name, weight in sorted(self._weights.items())}


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _is_buffer(name: str) -> bool:
    # old checkpoints saved the rotary frequencies and causal masks, which are derived
    return name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))
