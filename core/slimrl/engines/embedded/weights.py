"""Named weights that can be replaced in place: all of a batch is checked before the first is touched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from slimrl.engines.embedded.checkpoint import FLOAT_DTYPES
from slimrl.errors import EngineError

if TYPE_CHECKING:
    from slimrl.engines.embedded.checkpoint import Checkpoint


class NamedWeights:
    """HF name -> tensor the model computes with (a view where the model keeps several as one)."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str]) -> None:
        self._tensors = dict(tensors)
        self._aliases = dict(aliases)
        """Names that checkpoints may carry for a tensor that has another name here: a tied head."""

    def __getitem__(self, name: str) -> torch.Tensor:
        """A tensor by HF name; raises EngineError when the model has none of that name."""
        try:
            return self._tensors[self._aliases.get(name, name)]
        except KeyError:
            raise EngineError(f"the model has no weight {name!r}") from None

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise EngineError unless every name is known and has its shape."""
        for name, shape in shapes.items():
            wanted = tuple(self[name].shape)
            if tuple(shape) != wanted:
                raise EngineError(f"weight {name!r} has shape {list(shape)}; the model's is {list(wanted)}")

    def load(self, checkpoint: Checkpoint) -> None:
        """Copy a whole checkpoint; raises EngineError, weights untouched, when it does not fit the model."""
        shapes = {name: shape for name, shape in checkpoint.shapes.items() if not _is_buffer(name)}
        self.check(shapes)
        for name in shapes:
            if checkpoint.dtypes[name] not in FLOAT_DTYPES:
                raise EngineError(f"weight {name!r} in {checkpoint.folder} has dtype {checkpoint.dtypes[name]}")
        missing = set(self._tensors) - {self._aliases.get(name, name) for name in shapes}
        if missing:
            raise EngineError(f"{checkpoint.folder} lacks {len(missing)} weights, the first {min(missing)!r}")
        self.copy((name, tensor) for name, tensor in checkpoint if name in shapes)

    def copy(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy tensors whose names and shapes `check` has accepted; casts to the model's dtype."""
        with torch.inference_mode():
            for name, tensor in tensors:
                self[name].copy_(tensor)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every tensor's bytes, by name."""
        return {name: _sha256(tensor) for name, tensor in sorted(self._tensors.items())}


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _is_buffer(name: str) -> bool:
    # old checkpoints saved the rotary frequencies and causal masks, which are derived
    return name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"))
