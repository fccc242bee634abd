"""Pieces of tensors and the files that they are in: every number once, in its place, and nothing else is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties, TensorStorageMetadata
from transformers import LlamaConfig, LlamaForCausalLM

from slimrl.cli.convert import main as convert
from slimrl.config import CkptConfig
from slimrl.errors import CheckpointError
from slimrl.megatron.checkpoint import hf_folder
from slimrl.megatron.compat import prepare_megatron
from slimrl.megatron.dist_files import StoredPieces, write_pieces
from slimrl.megatron.parallel import init_parallel
from slimrl.megatron.pieces import Piece, beside
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]


@pytest.fixture(scope="module")
def group() -> Any:
    prepare_megatron(torch.device("cpu"))
    return init_parallel(torch.device("cpu"), 0, has_files_group=True).files_group


def piece(key: str, whole: tuple[int, ...], offset: tuple[int, ...], tensor: torch.Tensor, **others: int) -> Piece:
    return Piece(key, whole, offset, tensor, is_first=True, is_only=True, **others)


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.data())
def test_a_run_of_elements_is_boxes_that_hold_each_of_them_once(
    rows: int, columns: int, is_matrix: bool, data: st.DataObject
) -> None:
    """Two parts one under the other, as of gate and up, behind an axis for the layer."""
    shape = (rows, columns) if is_matrix else (columns,)
    parts = [torch.empty(1, *shape), torch.empty(1, *shape)]
    whole = (3, 2 * shape[0], *shape[1:])
    zeros = (0,) * (len(shape) - 1)
    pieces = [piece("w", whole, (1, number * shape[0], *zeros), part) for number, part in enumerate(parts)]
    size = 2 * parts[0].numel()
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    numbers = torch.arange(float(start), float(end))

    found = torch.full(whole, -1.0)
    for box in beside(pieces, numbers, "m", start=start):
        assert (box.key, box.shape) == ("m/w", whole)
        place = tuple(slice(at, at + length) for at, length in zip(box.offset, box.tensor.shape, strict=True))
        assert (found[place] == -1).all()
        found[place] = box.tensor
    expected = torch.full(whole, -1.0)
    expected[1].view(-1)[start:end] = numbers
    assert torch.equal(found, expected)


def test_pieces_are_read_in_other_boxes_than_they_were_written(tmp_path: Path, group: Any) -> None:
    whole = torch.randn(6, 4)
    write_pieces(tmp_path, [piece("w", (6, 4), (0, 0), whole[:, :3]), piece("w", (6, 4), (0, 3), whole[:, 3:])], group)
    stored = StoredPieces(tmp_path)
    assert (stored.names(), stored.dtype("w")) == ({"w"}, torch.float32)
    for first in (0, 2, 4):
        target = torch.empty(2, 4)
        stored.fill(piece("w", (6, 4), (first, 0), target))
        assert torch.equal(target, whole[first : first + 2])
    padded = torch.ones(8, 4)
    stored.fill(piece("w", (8, 4), (0, 0), padded, fewest_rows=6))
    assert torch.equal(padded, torch.cat([whole, torch.zeros(2, 4)]))
    with pytest.raises(CheckpointError, match=r"w is \(6, 4\), the model makes it \(8, 4\)"):
        stored.fill(piece("w", (8, 4), (0, 0), padded, fewest_rows=7))
    with pytest.raises(CheckpointError, match=r"w is \(6, 4\), the model makes it \(8, 4\)"):
        stored.fill(piece("w", (8, 4), (0, 0), padded))
    with pytest.raises(CheckpointError, match="lacks v"):
        stored.fill(piece("v", (8, 4), (0, 0), padded))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_box_of_layers_of_experts_is_read_from_any_others(data: st.DataObject) -> None:
    """Written as matrices of one expert, as several experts together, or as both."""
    whole = torch.randn(3, 4, 5, 2)
    chunks = []
    for layer in range(3):
        low = 0
        while low < 4:
            high = data.draw(st.integers(low + 1, 4))
            chunks.append((slice(layer, layer + 1), slice(low, high), slice(0, 5), slice(0, 2)))
            low = high
    stored = StoredPieces.__new__(StoredPieces)
    stored.folder, stored._by_layer = Path("memory"), {}
    boxes = [
        ChunkStorageMetadata(
            torch.Size([part.start for part in chunk]), torch.Size([part.stop - part.start for part in chunk])
        )
        for chunk in chunks
    ]
    stored._tensors = {"w": TensorStorageMetadata(TensorProperties(), whole.shape, boxes)}
    stored._read = lambda key, box: whole[chunks[boxes.index(box)]]  # type: ignore[method-assign]
    starts = [data.draw(st.integers(0, size - 1)) for size in whole.shape]
    ends = [data.draw(st.integers(start + 1, size)) for start, size in zip(starts, whole.shape, strict=True)]
    part = tuple(map(slice, starts, ends))
    target = torch.empty_like(whole[part])
    stored.fill(piece("w", tuple(whole.shape), tuple(starts), target))
    assert torch.equal(target, whole[part])


def test_of_many_boxes_only_those_of_the_same_expert_are_looked_at(tmp_path: Path, group: Any) -> None:
    pieces = [
        piece("w", (4, 8, 6, 2), (layer, expert, row, 0), torch.full((1, 1, 3, 2), float(8 * layer + expert)))
        for layer in range(4)
        for expert in range(8)
        for row in (0, 3)
    ]
    write_pieces(tmp_path, pieces, group)
    stored = StoredPieces(tmp_path)
    assert {len(stored._near(one)) for one in pieces} == {2}
    target = torch.empty(1, 1, 2, 2)
    stored.fill(piece("w", (4, 8, 6, 2), (3, 5, 2, 0), target))
    assert (target == 29).all()


def test_rows_that_no_file_holds_are_no_padding(tmp_path: Path, group: Any) -> None:
    write_pieces(tmp_path, [piece("w", (6, 4), (0, 0), torch.ones(4, 4))], group)
    with pytest.raises(CheckpointError, match="holds 16 of 24 numbers of w"):
        StoredPieces(tmp_path).fill(piece("w", (8, 4), (0, 0), torch.empty(8, 4), fewest_rows=6))


def test_what_would_be_written_twice_is_found_before_anything_is_written(tmp_path: Path, group: Any) -> None:
    pieces = [piece("w", (6, 4), (0, 0), torch.zeros(5, 4)), piece("w", (6, 4), (4, 0), torch.zeros(2, 4))]
    with pytest.raises(CheckpointError, match=r"could not be written: process 0: .*w has overlapping chunks.*--save"):
        write_pieces(tmp_path, pieces, group)
    assert not list(tmp_path.glob("*.distcp"))


def test_a_folder_that_the_processes_do_not_share_is_named(
    tmp_path: Path, group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    finish = FileSystemWriter.finish

    def lose(writer: Any, **arguments: Any) -> None:
        finish(writer, **arguments)
        (tmp_path / "__0_0.distcp").unlink()

    monkeypatch.setattr(FileSystemWriter, "finish", lose)
    with pytest.raises(CheckpointError, match=r"__0_0.distcp is not there .*must share the folder"):
        write_pieces(tmp_path, [piece("w", (4,), (0,), torch.arange(4.0))], group)


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("where", [".metadata", "__0_0.distcp", "common.pt"])
def test_a_hostile_pickle_is_never_run(where: str, tmp_path: Path, group: Any) -> None:
    folder, sprung = tmp_path / "c", tmp_path / "sprung"
    write_pieces(folder, [piece("w", (4,), (0,), torch.arange(4.0))], group)
    if where == "__0_0.distcp":
        torch.save(Trap(sprung), folder / where)
        index = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301  # the test wrote it
        (place,) = index.storage_data.values()
        place.offset, place.length = 0, (folder / where).stat().st_size
        (folder / ".metadata").write_bytes(pickle.dumps(index))
    else:
        (folder / where).write_bytes(pickle.dumps({"state_dict_metadata": Trap(sprung)}))
    target = torch.empty(4)
    if where == "common.pt":  # which only Megatron reads
        StoredPieces(folder).fill(piece("w", (4,), (0,), target))
    else:
        with pytest.raises(CheckpointError, match=r"asks for pathlib.*Path.touch|asks for builtins|is damaged"):
            StoredPieces(folder).fill(piece("w", (4,), (0,), target))
    assert not sprung.exists()


@pytest.fixture
def saved(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> tuple[MegatronTrainer, Path]:
    ckpt = CkptConfig(hf_checkpoint=checkpoints["llama-tied"], ckpt_format="torch_dist")
    trainer = make_trainer(checkpoints["llama-tied"], ckpt=ckpt)
    trainer.train(make_batch(0))
    folder = tmp_path / "iter_0000001"
    folder.mkdir()
    trainer.save(folder)
    return trainer, folder


def weights_of(trainer: MegatronTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.export_weights()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_copy_is_written_later_as_if_no_step_had_followed(
    saved: tuple[MegatronTrainer, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    trainer, folder = saved
    snapshot = trainer.snapshot(with_export=True)
    expected = weights_of(trainer)
    trainer.train(make_batch(1))
    later, export = tmp_path / "later", tmp_path / "hf"
    for path in (later, export):
        path.mkdir()
    snapshot.write(later)
    snapshot.write_hf(export)
    trainer.load(later)
    assert_same(weights_of(trainer), expected)
    assert_same(load_file(export / "model.safetensors"), expected)
    resumed = trainer.train(make_batch(1)).metrics
    trainer.load(folder)
    assert trainer.train(make_batch(1)).metrics["train/loss"] == resumed["train/loss"]


def test_such_a_checkpoint_becomes_one_of_hugging_face(saved: tuple[MegatronTrainer, Path], tmp_path: Path) -> None:
    trainer, folder = saved
    assert convert(["--to", "hf", "--input", str(folder), "--output", str(tmp_path / "hf")]) == 0
    assert_same(load_file(tmp_path / "hf" / "model.safetensors"), weights_of(trainer))
    with pytest.raises(CheckpointError, match="slimrl convert --to hf --input"):
        hf_folder(folder)


def test_megatron_itself_loads_the_weights(saved: tuple[MegatronTrainer, Path]) -> None:
    from megatron.core import dist_checkpointing

    from slimrl.megatron.compat import prepare_distributed_checkpoints, without_megatron_warnings

    trainer, folder = saved
    prepare_distributed_checkpoints(torch.device("cpu"))
    (model,) = trainer._chunks
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with without_megatron_warnings():
        loaded = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(folder / "model" / "release"))
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["ours", "megatron"])
def test_another_run_begins_with_its_weights(
    kind: str, saved: tuple[MegatronTrainer, Path], checkpoints: dict[str, Path], make_trainer: Make
) -> None:
    trainer, folder = saved
    expected = weights_of(trainer)
    start = folder if kind == "ours" else folder / "model"
    ckpt = CkptConfig(hf_checkpoint=checkpoints["llama-tied"], ref_load=start)
    other = make_trainer(checkpoints["llama-tied"], ckpt=ckpt)
    assert_same(weights_of(other), expected)
    if kind == "megatron":
        plain = make_trainer(checkpoints["llama-tied"])
        plain.load(start)
        assert_same(weights_of(plain), expected)
        assert plain._num_updates == 0


def test_another_model_is_refused(
    saved: tuple[MegatronTrainer, Path], checkpoints: dict[str, Path], make_trainer: Make
) -> None:
    with pytest.raises(CheckpointError, match=r"release lacks 2 tensors of the model, the first decoder"):
        make_trainer(checkpoints["qwen2"]).load(saved[1])


def test_a_smaller_vocabulary_is_refused(
    saved: tuple[MegatronTrainer, Path], make_trainer: Make, tmp_path: Path
) -> None:
    shape = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = LlamaConfig(**shape, vocab_size=85, num_hidden_layers=3, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "larger")
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight is \(83, 48\), the model makes it \(85, 48\)"):
        make_trainer(tmp_path / "larger").load(saved[1])


@pytest.mark.parametrize("file", ["model/release/__0_0.distcp", "optimizer/__0_0.distcp", "optimizer/.metadata"])
def test_a_damaged_file_is_named(file: str, saved: tuple[MegatronTrainer, Path]) -> None:
    trainer, folder = saved
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"cannot read .*{file}"):
        trainer.load(folder)
