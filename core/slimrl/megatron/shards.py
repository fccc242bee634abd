"""The parameters that this process has, by the whole model's names, and how the whole is put together from all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from slimrl.config.megatron_folder import tensors_folder
from slimrl.errors import CheckpointError
from slimrl.megatron.checkpoint import model_folder
from slimrl.megatron.convert.family import rules_for
from slimrl.megatron.convert.megatron_folder import fill_model, open_megatron
from slimrl.megatron.convert.place import join_shares, local_name, local_rules, num_shares, take_share
from slimrl.megatron.convert.rule import Rule
from slimrl.megatron.convert.weights import load_weights
from slimrl.megatron.dist_files import StoredPieces
from slimrl.megatron.lora import adapters_of
from slimrl.megatron.model import PackedGpt, place_of
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.tensor_files import TensorReader


@dataclass(frozen=True)
class Owner:
    """The process that gives a share of a parameter when the whole is asked for."""

    rank: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_trained: bool


class Shards:
    """This process's parameters; wholes come together in the first process, one at a time."""

    def __init__(
        self, chunks: Sequence[PackedGpt], shape: ModelShape, parallel: Parallel, adapters: Sequence[Rule] = ()
    ) -> None:
        self._shape = shape
        self._adapter_rules = adapters
        self._rank = parallel.rank
        self.models = list(chunks)
        """This process's part of the model, or parts of an interleaved pipeline."""
        self._chunks = [(dict(chunk.named_parameters()), place_of(chunk)) for chunk in chunks]
        self._place = self._chunks[0][1]
        self.own: dict[str, tuple[Rule, Tensor]] = {
            rule.megatron: (rule, parameters[name])
            for parameters, place in self._chunks
            for name, rule in local_rules(shape, place)
        }
        """What this process has of each of the model's parameters, by the name in the whole model."""
        for parameters, place in self._chunks:
            for rule in adapters:
                if rule.layer in (place.layers or ()):
                    self.own[rule.megatron] = (rule, parameters[local_name(rule, shape, place)])
        self.adapters = {
            name: adapter
            for chunk, (_, place) in zip(chunks, self._chunks, strict=True)
            for name, adapter in adapters_of(chunk, shape, place)
        }
        """The adapters of this process by the weight that each changes."""
        self._owners = self._find_owners(parallel)

    def load(self, reader: TensorReader) -> None:
        """Fill the parameters from a checkpoint; see `load_weights`."""
        for parameters, place in self._chunks:
            load_weights(parameters, reader, self._shape, place)

    def load_from(self, folder: Path) -> None:
        """Fill the parameters from a Hugging Face checkpoint, one of Megatron, or one of ours."""
        found = model_folder(folder)
        if tensors_folder(found) is None:
            self.load(TensorReader(found))
        else:
            self.load_pieces(open_megatron(found))

    def load_pieces(self, stored: StoredPieces, *, may_lack: Collection[str] = ()) -> None:
        """Fill the parameters from a distributed checkpoint; see `fill_model`."""
        for model in self.models:
            fill_model(model, stored, may_lack=may_lack)

    @torch.no_grad()
    def load_adapters(self, reader: TensorReader, prefix: str) -> None:
        """Fill the adapters from a folder of PEFT's; raises CheckpointError when it is of other adapters."""
        expected = {f"{prefix}{rule.hf[0]}" for rule in self._adapter_rules}
        if different := sorted(expected ^ reader.names()):
            raise CheckpointError(
                f"{reader.folder} holds other adapters, {different[0]} is not in both; resume with the "
                "--lora-target-modules it was saved with"
            )
        for rule in self._adapter_rules:
            if rule.megatron in self.own:
                parameter = self.own[rule.megatron][1]
                stored = self.take_share(reader.read(f"{prefix}{rule.hf[0]}"), rule)
                if stored.shape != parameter.shape:
                    raise CheckpointError(
                        f"{reader.folder}: {rule.hf[0]} is {tuple(stored.shape)}, this run makes it "
                        f"{tuple(parameter.shape)}; resume with the --lora-rank it was saved with"
                    )
                parameter.copy_(stored)

    def take_share(self, whole: Tensor, rule: Rule) -> Tensor:
        """What this process has of a whole parameter, or of a number for each of its elements."""
        return take_share(whole, rule, self._place)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of a Hugging Face checkpoint by name, in the first process; the others only give their shares.

        All processes must go through it to the end. Tensors may be views of parameters; adapters are merged.
        """
        for rule in rules_for(self._shape):
            parameter = self.own[rule.megatron][1].detach() if rule.megatron in self.own else None
            if parameter is not None and rule.megatron in self.adapters:
                with torch.no_grad():
                    parameter = self.adapters[rule.megatron].merged(parameter)
            whole = self.whole(rule, parameter)
            if whole is not None:
                yield from zip(rule.hf, rule.split(whole, self._shape), strict=True)

    def adapter_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The matrices of all adapters, as `weights` gives the weights."""
        for rule in self._adapter_rules:
            own = self.own[rule.megatron][1].detach() if rule.megatron in self.own else None
            whole = self.whole(rule, own)
            if whole is not None:
                yield rule.hf[0], whole

    def trained_rules(self) -> list[Rule]:
        """The rules of the parameters that are trained, in the same order in every process."""
        rules = [*rules_for(self._shape), *self._adapter_rules]
        return [rule for rule in rules if self._owners[rule.megatron, 0].is_trained]

    def whole(self, rule: Rule, own: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
        """A parameter, or a number for each of its elements, from the shares of all processes; in the first only.

        `own` is this process's share, `dtype` its number format where it is not the parameter's.
        """
        shares = [
            self._pass_on(self._owners[rule.megatron, number], own, dtype)
            for number in range(num_shares(rule, self._place))
        ]
        there = [share for share in shares if share is not None]
        return join_shares(there, rule, self._shape) if there else None

    def _pass_on(self, owner: Owner, own: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
        if self._rank == 0 and owner.rank == 0:
            return own
        if self._rank == owner.rank:
            assert own is not None
            distributed.send(own.contiguous(), 0)
        elif self._rank == 0:
            share = torch.empty(owner.shape, dtype=dtype or owner.dtype, device=self._device)
            distributed.recv(share, owner.rank)
            return share
        return None

    @property
    def _device(self) -> torch.device:
        return next(iter(self.own.values()))[1].device

    def _find_owners(self, parallel: Parallel) -> dict[tuple[str, int], Owner]:
        own = {
            (name, self._number(rule)): (tuple(parameter.shape), parameter.dtype, parameter.requires_grad)
            for name, (rule, parameter) in self.own.items()
        }
        everyone: list[Any] = [own]
        if not parallel.layout.is_single:
            everyone = [None] * parallel.layout.world_size
            distributed.all_gather_object(everyone, own)
        owners: dict[tuple[str, int], Owner] = {}
        for rank, shares in enumerate(everyone):
            for key, (shape, dtype, is_trained) in shares.items():
                owners.setdefault(key, Owner(rank, shape, dtype, is_trained))
        return owners

    def _number(self, rule: Rule) -> int:
        if rule.share is None:
            return 0
        return self._place.tensor_rank if rule.expert is None else self._place.expert_tensor_rank
