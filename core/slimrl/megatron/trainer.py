"""The Trainer protocol on Megatron-core."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from slimrl.config.ckpt import CkptConfig
from slimrl.config.grpo import GrpoConfig
from slimrl.config.layout import KEEP_ALL, SINGLE, Layout, Recompute
from slimrl.config.model import ModelConfig
from slimrl.config.optimizer import OptimizerConfig, critic_optimizer
from slimrl.config.perf import PerfConfig
from slimrl.config.trained import ALL_PARAMETERS, TrainedConfig
from slimrl.errors import CheckpointError, ConfigError
from slimrl.heap import return_free_pages
from slimrl.megatron import checkpoint as files
from slimrl.megatron.advantages import Advantages, advantages_of
from slimrl.megatron.compat import prepare_megatron
from slimrl.megatron.contents import About, Contents, GatheredContents, Snapshot, contents_of, gathered
from slimrl.megatron.device import be_deterministic, device_of, dtype_of
from slimrl.megatron.distillation import Distillation
from slimrl.megatron.functions import TrainFunctions
from slimrl.megatron.parallel import init_parallel
from slimrl.megatron.random_state import random_state, restore_random_state
from slimrl.megatron.schedule import learning_rate
from slimrl.megatron.shape import check_model_flags, model_shape
from slimrl.megatron.tensor_files import TensorReader, use_up
from slimrl.megatron.timing import Timer
from slimrl.protocols import Advantage, TokenAdvantage, WeightTransport
from slimrl.traits import advantage_traits_of
from slimrl.types import TrainBatch, TrainReport

if TYPE_CHECKING:
    from slimrl.megatron.critic import Critic
    from slimrl.megatron.meeting import Meeting

logger = logging.getLogger(__name__)


class MegatronTrainer:
    """GRPO: weights, float32 gradients and Adam's two moments, so four copies of the model in float32.

    Of several processes each has a trainer, which differ in `rank` and find each other at the `meeting`. All
    must be asked for the same at the same time; what is published or saved comes from the first.
    With --use-kl-loss the reference weights are one more copy in CPU memory, and with --opd-teacher-load a
    teacher's; they are swapped in for a pass by exchanging pointers. In bfloat16 float32 master weights come on top.
    An estimator that needs values brings a critic: a second model with all that belongs to one.
    """

    def __init__(
        self,
        ckpt: CkptConfig,
        model: ModelConfig,
        rollout_temperature: float,
        grpo: GrpoConfig,
        optimizer: OptimizerConfig,
        perf: PerfConfig,
        *,
        trained: TrainedConfig = ALL_PARAMETERS,
        num_steps_per_rollout: int,
        global_batch_size: int,
        total_steps: int,
        max_response_len: int | None = None,
        max_staleness: int = 0,
        advantage: Advantage | TokenAdvantage,
        transport: WeightTransport | None,
        functions: TrainFunctions | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        num_threads: int | None = None,
        seed: int = 1234,
        deterministic: bool = False,
        layout: Layout = SINGLE,
        recompute: Recompute = KEEP_ALL,
        rank: int = 0,
        meeting: Meeting | None = None,
    ) -> None:
        if ckpt.hf_checkpoint is None:
            raise ConfigError("--hf-checkpoint is required: it gives the model's shape and tokenizer")
        self._ckpt = ckpt
        self._source = ckpt.hf_checkpoint
        self._grpo = grpo
        self._optimizer_config = optimizer
        self._total_steps = total_steps - grpo.num_critic_only_steps * num_steps_per_rollout
        self._trained = trained
        self._seed = seed
        self._functions = functions = functions or TrainFunctions()
        self._estimate = functions.estimate(advantage, grpo)
        self._transport = transport
        self._device = device_of(device)
        self._dtype = dtype_of(dtype, self._device)
        self._num_updates = 0
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if deterministic:
            be_deterministic()
        config = files.read_config(self._source)
        if problems := check_model_flags(model, config):
            raise ConfigError(problems)
        self._shape = model_shape(config)

        prepare_megatron(self._device)
        # Importing Megatron is slow, and these modules do.
        from slimrl.megatron.critic import Critic
        from slimrl.megatron.lora import adapter_rules, add_adapters, freeze
        from slimrl.megatron.model import build_chunks, place_of
        from slimrl.megatron.optimizer import ModelOptimizer
        from slimrl.megatron.rollout_step import RolloutSteps
        from slimrl.megatron.shards import Shards

        writes_pieces = ckpt.ckpt_format == "torch_dist"
        self._parallel = init_parallel(self._device, seed, layout, rank, meeting, has_files_group=writes_pieces)
        self._chunks = build_chunks(self._shape, layout, recompute, device=self._device, dtype=self._dtype)
        for chunk in self._chunks:
            freeze(chunk, self._shape, place_of(chunk), trained)
            add_adapters(chunk, self._shape, place_of(chunk), trained)
        self._shards = Shards(self._chunks, self._shape, self._parallel, adapter_rules(self._shape, trained))
        self._optimizer = ModelOptimizer(self._chunks, self._shards, optimizer, is_shared=layout.shares_optimizer)
        traits = advantage_traits_of(advantage)
        self._critic: Critic | None = None
        if traits.needs_values:
            self._critic = Critic(
                self._shape,
                self._parallel,
                recompute,
                critic_optimizer(optimizer),
                value_clip=grpo.value_clip,
                total_steps=total_steps,
                source=self._source,
                device=self._device,
                dtype=self._dtype,
            )
        self._steps = RolloutSteps(
            self._optimizer,
            self._shape,
            self._parallel,
            grpo,
            perf,
            traits=traits,
            max_response_len=max_response_len,
            max_staleness=max_staleness,
            temperature=rollout_temperature,
            num_steps=num_steps_per_rollout,
            rollouts_per_step=global_batch_size,
            device=self._device,
            critic=self._critic,
            functions=functions,
        )

    def load(self, checkpoint: Path | None) -> None:
        """Load weights, and from a checkpoint of ours also optimizer, schedule position and random states.

        None starts training from --ref-load, else --hf-checkpoint. Raises CheckpointError when a checkpoint is
        incomplete or does not fit the model.
        """
        base = self._ckpt.ref_load or self._source
        start = checkpoint or base
        if self._trained.lora_rank is None:
            self._shards.load_from(start)
        else:
            self._shards.load_from(base)
            self._load_adapters(checkpoint)
        self._optimizer.weights_changed()
        self._num_updates = 0
        if checkpoint is not None and files.is_trainer_checkpoint(checkpoint):
            state = files.read_state(checkpoint)
            if (scale := state.get("lora_scale")) != self._lora_scale:
                raise CheckpointError(
                    f"checkpoint {checkpoint} was saved with adapters scaled by {scale}, this run scales them by "
                    f"{self._lora_scale}; resume with the --lora-rank and --lora-alpha it was saved with"
                )
            self._num_updates = int(state["num_updates"])
            if state["optimizer"] != self._optimizer_config.optimizer:
                raise CheckpointError(
                    f"checkpoint {checkpoint} was saved with --optimizer {state['optimizer']}, "
                    f"this run has {self._optimizer_config.optimizer}; use the same, or start anew without --load"
                )
            self._optimizer.resume(checkpoint, self._num_updates)
            restore_random_state(state["random"])
        weights = base if self._shards.adapters else start
        if self._critic is not None:
            self._load_critic(self._critic, checkpoint, weights)
        self._load_others(weights)
        logger.info("loaded %s at optimizer step %d", start, self._num_updates)

    def train(self, batch: TrainBatch) -> TrainReport:
        """All optimizer steps of one rollout; raises TrainError when a loss or gradient is not finite.

        Every process gets the whole batch and makes the same report.
        """
        metrics, advantages = self._steps.run(
            batch,
            lambda known: self._agreed(
                advantages_of(
                    batch,
                    self._estimate,
                    known,
                    name=self._grpo.advantage_estimator,
                    distillation=Distillation.of(self._grpo),
                    normalize=self._grpo.normalize_advantages,
                    function=self._functions.advantage,
                    postprocess=self._functions.postprocess,
                )
            ),
            self._num_updates,
            self._learning_rate,
        )
        if batch.step >= self._grpo.num_critic_only_steps:
            self._num_updates += self._steps.num_steps
        return_free_pages()
        return TrainReport(metrics=metrics, advantages=advantages)

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The current weights under their Hugging Face names, one at a time; tensors may be views of parameters.

        They come in the first process; the others must go through it to the end, too.
        """
        return self._shards.weights()

    def publish(self, version: int) -> Mapping[str, float]:
        """Give the engine the current weights under a version; returns how long it took. Of the first process only."""
        assert self._transport is not None
        timer = Timer(self._device)
        weights = self.export_weights()
        with timer("perf/publish_s"):
            try:
                self._transport.publish(weights, version)
            finally:
                use_up(weights)
        return timer.seconds

    def give_weights(self) -> None:
        """Give the first process this one's part of the weights, while that one publishes or saves them."""
        use_up(self.export_weights())

    def save(self, folder: Path) -> None:
        """Write weights, optimizer state, counters and random states into an existing folder."""
        for name, contents in self._contents().items():
            contents.write(folder / name)

    def snapshot(self, *, with_export: bool = False) -> Snapshot:
        """What `save` writes, and with `with_export` what `save_hf` does, in CPU memory, to be written later."""
        parts = {name: contents.in_memory() for name, contents in self._contents().items()}
        policy = parts[""]
        if with_export and not isinstance(policy, GatheredContents):
            policy = self._export().in_memory()
        return Snapshot(parts, policy if with_export and isinstance(policy, GatheredContents) else None)

    def save_hf(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint, or the adapters as PEFT has them, into an empty folder.

        The other processes only give what they have of them.
        """
        self._export().write_hf(folder)

    def _contents(self) -> dict[str, Contents]:
        """What a checkpoint is made of, by the folder in it."""
        ckpt, optimizer = self._ckpt, None if self._ckpt.no_save_optim else self._optimizer
        contents = {"": contents_of(ckpt.ckpt_format, self._shards, optimizer, self._parallel, self._about())}
        if self._critic is not None:
            contents[files.CRITIC] = self._critic.contents(ckpt)
        return contents

    def _export(self) -> GatheredContents:
        return gathered(self._shards, None, self._parallel, self._about())

    def _about(self) -> About:
        state = {
            "num_updates": self._num_updates,
            "optimizer": self._optimizer_config.optimizer,
            "lora_scale": self._lora_scale,
            "random": random_state(),
        }
        return About(state, self._source, self._dtype, adapter=self._peft_config())

    def _peft_config(self) -> Mapping[str, Any] | None:
        if self._trained.lora_rank is None:
            return None
        from slimrl.megatron.lora import peft_config

        base = files.model_folder(self._ckpt.ref_load or self._source)
        return peft_config(str(base), self._shape, self._trained)

    def _learning_rate(self, update: int) -> float:
        return learning_rate(self._optimizer_config, update, self._total_steps)

    @property
    def _lora_scale(self) -> float | None:
        return None if self._trained.lora_rank is None else self._trained.lora_scale

    def _load_adapters(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            for adapter in self._shards.adapters.values():
                adapter.start(self._seed)
            return
        folder = checkpoint / files.ADAPTER
        if not folder.is_dir():
            raise CheckpointError(
                f"checkpoint {checkpoint} was saved without --lora-rank; leave the flag out, or train adapters on its "
                f"weights with --ref-load {checkpoint} and no --load"
            )
        self._shards.load_adapters(TensorReader(folder), files.PEFT_PREFIX)

    def _agreed(self, found: Advantages) -> Advantages:
        """The first process's: plans are made by them, and a function of the user's may not give the same twice."""
        if self._parallel.layout.is_single:
            return found

        def agreed(array: NDArray[Any]) -> NDArray[Any]:
            numbers: NDArray[Any] = self._parallel.agree(torch.tensor(array, device=self._device)).cpu().numpy()
            return numbers

        batch = replace(found.batch, loss_mask=agreed(found.batch.loss_mask))
        returns = None if found.returns is None else agreed(found.returns)
        return Advantages(batch, agreed(found.per_token), agreed(found.per_sample), returns)

    def _load_critic(self, critic: Critic, checkpoint: Path | None, weights: Path) -> None:
        saved = None if checkpoint is None else files.critic_of(checkpoint)
        if saved is not None:
            critic.resume(saved)
            return
        folder = self._ckpt.critic_load or files.model_folder(weights)
        critic.start_from(folder)
        logger.info("the critic starts from %s", folder)

    def _load_others(self, loaded: Path) -> None:
        """The reference and the teacher, where a setting asks for them."""
        from slimrl.megatron.copies import copy_of, without_adapters

        grpo = self._grpo
        if (grpo.use_kl_loss or grpo.kl_coef) and self._shards.adapters:
            self._steps.set_reference(without_adapters(self._shards))
        elif grpo.use_kl_loss or grpo.kl_coef:
            reference = self._ckpt.ref_load or self._source
            self._steps.set_reference(copy_of(self._shards, reference, loaded=loaded))
        if grpo.opd_teacher_load is not None:
            self._steps.set_teacher(copy_of(self._shards, grpo.opd_teacher_load, loaded=loaded))
