"""Weights in Megatron's own format: a distributed checkpoint (torch_dist), which loads at any parallel sizes.

latest_checkpointed_iteration.txt   says `release`, as Megatron-LM looks for it
release/                            the tensors, by Megatron's names
config.json, tokenizer.json, ...    what a Hugging Face checkpoint has besides its weights
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, spawn

from slimrl.config.layout import Layout
from slimrl.config.megatron_folder import METADATA, RELEASE, TRACKER, tensors_folder
from slimrl.errors import CheckpointError
from slimrl.megatron.compat import prepare_distributed_checkpoints, prepare_megatron, without_megatron_warnings
from slimrl.megatron.convert.weights import check_names, export_weights, load_weights
from slimrl.megatron.dist_files import StoredPieces
from slimrl.megatron.parallel import init_parallel
from slimrl.megatron.pieces import weight_pieces
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.tensor_files import TensorReader

if TYPE_CHECKING:
    from slimrl.megatron.model import PackedGpt

CPU = torch.device("cpu")
EMBEDDING = "embedding.word_embeddings.weight"


def open_megatron(folder: Path) -> StoredPieces:
    """The tensors of a Megatron checkpoint; raises CheckpointError when the folder is none."""
    tensors = tensors_folder(folder)
    if tensors is None:
        raise CheckpointError(
            f"{folder} is no distributed checkpoint of Megatron (it has no {METADATA}); give a folder that Megatron "
            "wrote with --ckpt-format torch_dist"
        )
    return StoredPieces(tensors)


@torch.no_grad()
def fill_model(model: PackedGpt, stored: StoredPieces, *, may_lack: Collection[str] = ()) -> None:
    """Fill a model, or a process's part of one, from a checkpoint of any layout; what it may lack becomes zero.

    Raises CheckpointError when tensors are missing or of another shape than the model's.
    """
    wanted, there = weight_pieces(model), stored.names()
    missing = {piece.key for name, pieces in wanted.items() if name not in may_lack for piece in pieces} - there
    if missing:
        raise CheckpointError(f"{stored.folder} lacks {len(missing)} tensors of the model, the first {min(missing)}")
    for pieces in wanted.values():
        for piece in pieces:
            if piece.key in there:
                stored.fill(piece)
            else:
                piece.tensor.zero_()


def write_megatron(
    source: Path, folder: Path, shape: ModelShape, *, tensor_size: int = 1, pipeline_size: int = 1
) -> None:
    """Write the weights of a Hugging Face checkpoint into an existing folder, by a process for each rank.

    Every process holds its rank's part of the model. Raises CheckpointError when the checkpoint is incomplete.
    """
    reader = TensorReader(source)
    check_names(reader, shape)
    dtype = _only_dtype(reader)
    (folder / RELEASE).mkdir()
    size = tensor_size * pipeline_size
    if size == 1:
        _write_rank(0, source, folder, shape, dtype, 1, 1, None)
    else:
        with tempfile.TemporaryDirectory() as meeting:
            work = (source, folder, shape, dtype, tensor_size, pipeline_size, str(Path(meeting) / "store"))
            try:
                spawn(_write_rank, work, nprocs=size)  # type: ignore[no-untyped-call]
            except ProcessException as e:
                reason = str(e).strip().splitlines()[-1]
                raise CheckpointError(f"one of the {size} processes that convert {source} failed: {reason}") from e
    (folder / TRACKER).write_text(f"{RELEASE}\n")


def read_megatron(folder: Path, shape: ModelShape) -> dict[str, Tensor]:
    """The weights of a Megatron checkpoint under their Hugging Face names.

    Raises CheckpointError when tensors are missing or of another shape than the model's.
    """
    stored = open_megatron(folder)
    if EMBEDDING not in stored.names():
        raise CheckpointError(f"{stored.folder} holds no {EMBEDDING}; it is no language model of Megatron")
    _start(0, 1, 1, None)
    from slimrl.megatron.model import build_model

    with without_megatron_warnings():
        model = build_model(shape, device=CPU, dtype=stored.dtype(EMBEDDING))
    fill_model(model, stored)
    return dict(export_weights(dict(model.named_parameters()), shape))


def _write_rank(
    rank: int,
    source: Path,
    folder: Path,
    shape: ModelShape,
    dtype: torch.dtype,
    tensor_size: int,
    pipeline_size: int,
    store: str | None,
) -> None:
    _start(rank, tensor_size, pipeline_size, store)
    from megatron.core import dist_checkpointing

    from slimrl.megatron.model import build_model, place_of

    model = build_model(shape, device=CPU, dtype=dtype)
    load_weights(dict(model.named_parameters()), TensorReader(source), shape, place_of(model))
    with without_megatron_warnings():
        state = {"model": model.sharded_state_dict(), "checkpoint_version": 3.0, "iteration": 0}
        dist_checkpointing.save(state, str(folder / RELEASE))


def _start(rank: int, tensor_size: int, pipeline_size: int, store: str | None) -> None:
    """Make Megatron usable: in this process alone, or in one of several that meet at a file."""
    prepare_megatron(CPU)
    prepare_distributed_checkpoints(CPU)
    layout = Layout(
        tensor_size * pipeline_size,
        tensor_size=tensor_size,
        pipeline_size=pipeline_size,
        expert_tensor_size=tensor_size,
    )
    init_parallel(CPU, 0, layout, rank, None if store is None else Path(store))


def _only_dtype(reader: TensorReader) -> torch.dtype:
    """The number format of all weights but the routers' biases, which are float32 in any model."""
    names = sorted(name for name in reader.names() if not name.endswith("e_score_correction_bias"))
    first = reader.dtype(names[0])
    for name in names:
        if reader.dtype(name) != first:
            raise CheckpointError(
                f"{reader.folder}: {names[0]} is {first} and {name} is {reader.dtype(name)}; Megatron keeps all "
                "weights in one number format: save the checkpoint in one with transformers' save_pretrained"
            )
    return first
