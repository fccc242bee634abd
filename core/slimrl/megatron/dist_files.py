"""Distributed checkpoints (torch_dist, Megatron's format): every process writes its pieces, any reads what it needs.

.metadata       which boxes of which tensors are where; a pickle, of which only known classes are made
__N_0.distcp    the boxes that process N wrote
metadata.json, common.pt    what Megatron looks for besides
"""

from __future__ import annotations

import io
import json
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimrl.config.megatron_folder import METADATA
from slimrl.errors import CheckpointError
from slimrl.megatron.pieces import Piece, num_elements

_TORCH, _PLANS = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.planner"
_DTYPES = [str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)]
_OLD_TORCH = "torch.distributed._shard.sharded_tensor.metadata"
_KNOWN = frozenset(
    [
        *((_TORCH, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
        *((_TORCH, f"{kind}StorageMetadata") for kind in ("Tensor", "Bytes", "Chunk")),
        (_TORCH, "_MEM_FORMAT_ENCODING"),
        *((_OLD_TORCH, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        *(("torch", name) for name in _DTYPES),
        # Megatron keeps how each process wrote
        *((_PLANS, name) for name in ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData")),
        ("collections", "OrderedDict"),
        *((module, kind) for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "PurePosixPath")),
    ]
)
_MEGATRONS = ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata")


def write_pieces(folder: Path, pieces: Sequence[Piece], group: Any, objects: Sequence[str] = ()) -> None:
    """Write what only this process has of some tensors; all processes of the group must do so at once.

    `objects`: keys under which nothing is stored. Raises CheckpointError when a process cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    own = [piece for piece in pieces if piece.is_only]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        index = save({}, storage_writer=FileSystemWriter(folder), planner=_planner(own, objects), process_group=group)
    except CheckpointException as error:
        reasons = "; ".join(f"process {rank}: {failure}" for rank, (failure, _) in error.failures.items())
        raise CheckpointError(
            f"{folder} could not be written: {reasons}; make room where the disk is full, or name another folder with "
            "--save"
        ) from error
    if torch.distributed.get_rank(group) == 0:
        written = {str(place.relative_path) for place in index.storage_data.values()}
        if lost := sorted(name for name in written if not (folder / name).is_file()):
            raise CheckpointError(
                f"{folder / lost[0]} is not there though a process wrote it; the trainer's machines must share the "
                "folder of checkpoints"
            )
        said = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
        (folder / "metadata.json").write_text(
            json.dumps({**said, "common_backend": "torch", "common_backend_version": 1})
        )
        torch.save({"checkpoint_version": 3.0, "iteration": 0}, folder / "common.pt")


class StoredPieces:
    """The tensors of a distributed checkpoint; of each only what is asked for is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = _read_metadata(folder / METADATA)
        self._tensors: dict[str, Any] = {
            key: stored for key, stored in found.state_dict_metadata.items() if hasattr(stored, "chunks")
        }
        self._places = found.storage_data
        self._last: tuple[Any, Tensor] | None = None
        self._by_layer: dict[str, dict[tuple[int, ...] | None, list[Any]]] = {}

    def names(self) -> set[str]:
        """Every tensor of the checkpoint."""
        return set(self._tensors)

    def dtype(self, key: str) -> torch.dtype:
        """Number format of a tensor."""
        kind: torch.dtype = self._tensors[key].properties.dtype
        return kind

    @torch.no_grad()
    def fill(self, piece: Piece) -> None:
        """Read the numbers of a piece; raises CheckpointError when they are not there or of another shape."""
        stored = self._tensors.get(piece.key)
        if stored is None:
            raise CheckpointError(f"{self.folder} lacks {piece.key}")
        if not self._fits(piece, tuple(stored.size)):
            raise CheckpointError(
                f"{self.folder}: {piece.key} is {tuple(stored.size)}, the model makes it {piece.shape}; load it with "
                "the model that it was saved with"
            )
        if piece.fewest_rows is not None:
            piece.tensor.zero_()
        num_read = 0
        for chunk in self._near(piece):
            box = _common(piece, chunk)
            if box is None:
                continue
            numbers = self._read(piece.key, chunk)
            inside = tuple(slice(low - at, high - at) for (low, high), at in zip(box, chunk.offsets, strict=True))
            own = tuple(slice(low - at, high - at) for (low, high), at in zip(box, piece.offset, strict=True))
            piece.tensor[own].copy_(numbers[inside])
            num_read += num_elements([high - low for low, high in box])
        expected = num_elements(_stored_part(piece, stored.size))
        if num_read != expected:
            raise CheckpointError(f"{self.folder} holds {num_read} of {expected} numbers of {piece.key}")

    def _fits(self, piece: Piece, size: tuple[int, ...]) -> bool:
        if piece.fewest_rows is None:
            return size == piece.shape
        return len(size) == len(piece.shape) and size[0] >= piece.fewest_rows and size[1:] == piece.shape[1:]

    def _near(self, piece: Piece) -> Sequence[Any]:
        """The stored boxes of the piece's layer and expert: a model has tens of thousands of boxes under one key."""
        if piece.key not in self._by_layer:
            found = self._by_layer[piece.key] = defaultdict(list)
            for chunk in self._tensors[piece.key].chunks:
                found[_layer(chunk.offsets, chunk.sizes)].append(chunk)
        place, boxes = _layer(piece.offset, piece.tensor.shape), self._by_layer[piece.key]
        return self._tensors[piece.key].chunks if place is None else [*boxes.get(place, ()), *boxes.get(None, ())]

    def _read(self, key: str, chunk: Any) -> Tensor:
        from torch.distributed.checkpoint.metadata import MetadataIndex

        index = MetadataIndex(key, chunk.offsets)
        if self._last is None or self._last[0] != index:  # a run of elements may be in several boxes of one chunk
            self._last = index, self._load(index, chunk)
        return self._last[1]

    def _load(self, index: Any, chunk: Any) -> Tensor:
        place = self._places.get(index)
        if place is None:
            raise CheckpointError(f"{self.folder}: {METADATA} does not say where {index.fqn} is")
        file = self.folder / Path(place.relative_path).name
        try:
            with file.open("rb") as content:
                content.seek(place.offset)
                numbers: object = torch.load(
                    io.BytesIO(content.read(place.length)), map_location="cpu", weights_only=True
                )
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"cannot read {index.fqn} from {file}: {error}; the file is damaged") from error
        if not isinstance(numbers, Tensor) or numbers.shape != torch.Size(chunk.sizes):
            raise CheckpointError(f"{file} holds something else than {index.fqn} where {METADATA} says it is")
        return numbers


def _stored_part(piece: Piece, size: Sequence[int]) -> list[int]:
    """How long a piece is along each axis without what lies beyond the stored tensor."""
    axes = zip(piece.offset, piece.tensor.shape, size, strict=True)
    return [max(min(at + length, end) - at, 0) for at, length, end in axes]


def _layer(offset: Sequence[int], size: Sequence[int]) -> tuple[int, ...] | None:
    """Where a box is along the axes before a matrix's, of layer and expert; None where it is longer there than one."""
    return tuple(offset[:-2]) if all(length == 1 for length in size[:-2]) else None


def _common(piece: Piece, chunk: Any) -> list[tuple[int, int]] | None:
    """What a piece and a stored box have in common, from and to before along each axis."""
    box = []
    for at, size, offset, length in zip(piece.offset, piece.tensor.shape, chunk.offsets, chunk.sizes, strict=True):
        low, high = max(at, offset), min(at + size, offset + length)
        if low >= high:
            return None
        box.append((low, high))
    return box


class _Unpickler(pickle.Unpickler):
    """Makes the classes of a checkpoint's index and no others: a pickle could call anything."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is one of them."""
        if (module, name) == _MEGATRONS:
            module, name = _TORCH, "Metadata"
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which an index of tensors has no use for")
        return super().find_class(module, name)


def _read_metadata(file: Path) -> Any:
    try:
        with file.open("rb") as content:
            found = _Unpickler(content).load()
        if not isinstance(found.state_dict_metadata, dict) or not isinstance(found.storage_data, dict):
            raise ValueError("it is no index of tensors")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing; {file.parent} is no whole distributed checkpoint") from error
    except Exception as error:  # of a damaged pickle anything may come
        raise CheckpointError(f"cannot read {file}: {error}") from error
    return found


def _planner(pieces: Sequence[Piece], objects: Sequence[str]) -> Any:
    """How torch asks what there is to write."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
    from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

    def items() -> Iterator[tuple[WriteItem, Tensor | None]]:
        for key in objects:
            yield WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO), None
        for piece in pieces:
            box = ChunkStorageMetadata(torch.Size(piece.offset), piece.tensor.shape)
            properties = TensorProperties(dtype=piece.tensor.dtype)
            written = TensorWriteData(box, properties, torch.Size(piece.shape))
            yield (
                WriteItem(MetadataIndex(piece.key, piece.offset), WriteItemType.SHARD, tensor_data=written),
                piece.tensor,
            )

    class Planner(DefaultSavePlanner):
        def __init__(self) -> None:
            super().__init__(flatten_state_dict=False)
            self._tensors: dict[MetadataIndex, Tensor | None] = {item.index: tensor for item, tensor in items()}

        def create_local_plan(self) -> SavePlan:
            self.plan = SavePlan([item for item, _ in items()])
            return self.plan

        def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
            tensor = self._tensors[write_item.index]
            if tensor is not None:
                return tensor
            nothing = io.BytesIO()
            torch.save([None], nothing)
            return nothing

    return Planner()
