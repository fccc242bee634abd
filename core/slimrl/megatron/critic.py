"""The critic: a second model of the policy's family that says what a sample will still earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from slimrl.algorithms.value_loss import clipped_value_loss, explained_variance
from slimrl.config.ckpt import CkptConfig
from slimrl.config.layout import Recompute
from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.optimizer import OptimizerConfig
from slimrl.megatron import checkpoint as files
from slimrl.megatron.contents import About, Contents, contents_of
from slimrl.megatron.convert.megatron_folder import open_megatron
from slimrl.megatron.convert.value_head import VALUE_HEAD, ValueReader
from slimrl.megatron.metrics import check_finite, summarise
from slimrl.megatron.micro_batch import Pack
from slimrl.megatron.model import PackedGpt, build_chunks
from slimrl.megatron.optimizer import ModelOptimizer
from slimrl.megatron.parallel import Parallel
from slimrl.megatron.passes import Passes, with_others
from slimrl.megatron.schedule import learning_rate
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.shards import Shards
from slimrl.megatron.timing import Timer


@dataclass(frozen=True)
class ValueTargets:
    """Numbers of tokens on the device: of all response tokens of a rollout, or of a pass's trained ones."""

    weights: Tensor
    """Share of the token in its step's mean, the same as in the policy's loss."""
    old_values: Tensor
    """Before the rollout's first optimizer step."""
    returns: Tensor
    """What the values are trained towards."""

    def at(self, places: Tensor) -> Self:
        """The numbers of some of the tokens."""
        return replace(self, **{field.name: getattr(self, field.name)[places] for field in fields(self)})


@dataclass(frozen=True)
class ValueBatch:
    """A pack and what the critic's loss reads of its trained tokens."""

    pack: Pack
    tokens: ValueTargets


class Critic:
    """Weights, gradients and optimizer of a model whose last layer is one number, in float32.

    The value V_t of a token is read from the hidden state that predicts it: from all that is before the token, without
    itself. Samples that share this beginning share the state, as in the policy's passes. The head starts at zero.
    """

    def __init__(
        self,
        shape: ModelShape,
        parallel: Parallel,
        recompute: Recompute,
        optimizer: OptimizerConfig,
        *,
        value_clip: float,
        total_steps: int,
        source: Path,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._shape = replace(shape, has_tied_embeddings=True, has_value_head=True)
        self._parallel = parallel
        self._config = optimizer
        self._value_clip = value_clip
        self._total_steps = total_steps
        self._source = source
        self._dtype = dtype
        layout = parallel.layout
        chunks = build_chunks(self._shape, layout, recompute, device=device, dtype=dtype)
        self._shards = Shards(chunks, self._shape, parallel)
        self._optimizer = ModelOptimizer(chunks, self._shards, optimizer, is_shared=layout.shares_optimizer)
        self._passes = Passes(self._optimizer.chunks, parallel, self._read)
        self._num_updates = 0

    def start_from(self, folder: Path) -> None:
        """Take the weights of a Hugging Face checkpoint, or of one of ours: its critic's if it has one.

        A head comes with the weights of a token or sequence classifier with one label; otherwise it starts at zero.
        """
        self._load_weights(files.critic_of(folder) or folder)
        self._num_updates = 0

    def resume(self, folder: Path) -> None:
        """Go on as the critic that `save` wrote; raises CheckpointError when it does not fit."""
        self._load_weights(folder)
        self._num_updates = int(files.read_state(folder)["num_updates"])
        self._optimizer.resume(folder, self._num_updates)

    def contents(self, ckpt: CkptConfig) -> Contents:
        """Weights (a token classifier with one label), optimizer state and counter."""
        state = {"num_updates": self._num_updates, "optimizer": self._config.optimizer}
        about = About(state, self._source, self._dtype, labels=("value",))
        optimizer = None if ckpt.no_save_optim else self._optimizer
        return contents_of(ckpt.ckpt_format, self._shards, optimizer, self._parallel, about)

    def values(self, packs: Sequence[Pack]) -> list[Tensor]:
        """Values [trained tokens] of each pack under the weights as they are; none before the last pipeline stage."""
        return self._passes.read(packs)

    def train(
        self, steps: Sequence[Sequence[Pack]], targets: ValueTargets, timer: Timer, where: str
    ) -> dict[str, float]:
        """Make an optimizer step for each list of packs; returns metrics averaged over the steps.

        Raises TrainError when a loss or gradient is not finite.
        """
        per_step = []
        for packs in steps:
            lr = learning_rate(self._config, self._num_updates, self._total_steps)
            with timer("perf/critic_forward_backward_s"):
                self._optimizer.zero_grad()
                batches = [ValueBatch(pack, targets.at(pack.places)) for pack in packs]
                sums = self._passes.forward_backward(batches, self._loss)
                totals = {name: sum(float(part[name]) for part in sums) for name in ("value_loss", "value_clipped")}
            with timer("perf/critic_optimizer_s"):
                norm = self._optimizer.grad_norm()
                metrics = {**{f"critic/{name}": total for name, total in totals.items()}, "critic/grad_norm": norm}
                check_finite(metrics, f"{where}, optimizer step {self._num_updates} of the critic")
                self._optimizer.step(lr, norm)
            per_step.append({**metrics, "critic/lr": lr})
            self._num_updates += 1
        return {**summarise(per_step), **_fit(targets)}

    def _loss(self, values: Tensor, batch: ValueBatch) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = batch.tokens
        found = clipped_value_loss(values, tokens.old_values, tokens.returns, value_clip=self._value_clip)
        loss = torch.dot(tokens.weights, found.loss)
        clipped = torch.dot(tokens.weights, found.is_clipped.float())
        return loss, {"value_loss": loss.detach(), "value_clipped": clipped}

    def _read(self, hidden: Tensor, pack: Pack, model: PackedGpt) -> Tensor:
        """[trained tokens] the head's number for the hidden state that predicts each."""
        assert model.value_head is not None, "the last stage's"
        return with_others(model.value_head(hidden.float()).squeeze(-1)[pack.rows], pack, self._parallel)

    def _load_weights(self, folder: Path) -> None:
        found = files.model_folder(folder)
        if tensors_folder(found) is None:
            self._shards.load(ValueReader(found, self._shape.hidden_size))
        else:
            self._shards.load_pieces(open_megatron(found), may_lack=[rule.megatron for rule in VALUE_HEAD])
        self._optimizer.weights_changed()


def _fit(targets: ValueTargets) -> dict[str, float]:
    """How well the values before the first step foretold the returns."""
    trained = targets.weights > 0
    if not trained.any():
        return {}
    values, returns = targets.old_values[trained], targets.returns[trained]
    metrics = {"critic/value_mean": float(values.mean()), "critic/return_mean": float(returns.mean())}
    explained = explained_variance(values, returns)
    return metrics if explained is None else {**metrics, "critic/explained_variance": explained}
