"""An estimate of what each process of a run keeps in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slimrl.config import Config
from slimrl.config.engines import num_embedded_engines
from slimrl.config.hf_folder import HfFolder
from slimrl.config.layout import layout_of

# Resident megabytes after the imports alone, measured on Linux with torch 2.13 and ray 2.56.
LIBRARIES = {"driver": 180e6, "rollout manager": 280e6, "trainer": 450e6, "engine": 280e6}
BYTES = {"float32": 4, "bfloat16": 2}
OUTPUT = "lm_head.weight"
"""The tensor that a critic has one number in place of."""


@dataclass(frozen=True)
class ProcessMemory:
    """One process and its memory by what it is for."""

    name: str
    parts: Mapping[str, float]
    """Bytes by name."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


def estimate_memory(
    config: Config,
    model: HfFolder,
    *,
    dtype: str,
    samples_in_flight: int,
    has_critic: bool,
    num_trained: int | None = None,
) -> tuple[ProcessMemory, ...]:
    """Bytes per process, without activations: they depend on how micro-batches come out.

    `num_trained`: how many of the model's numbers are, where lists of names leave some out.
    The KV cache is that of full-length responses, and of prompts where --rollout-max-prompt-len bounds them.
    """
    num_parameters, size = model.count_parameters(), BYTES[dtype]
    layout = layout_of(config.cluster, config.perf, config.optimizer)
    # of experts that are spread over processes a process has less still
    part = 1 / (layout.tensor_size * layout.pipeline_size)
    sharing = layout.data_size * layout.context_size if layout.shares_optimizer else 1
    moments = {"adam": 2, "sgd": 1 if config.optimizer.sgd_momentum else 0}[config.optimizer.optimizer]
    # below float32 the optimizer keeps a float32 copy of the weights
    kept = 4.0 * (moments + (dtype != "float32")) / sharing
    rank = config.trained.lora_rank
    num_adapted = 0 if rank is None else model.count_adapter_parameters(rank, config.trained.lora_target_modules)
    if num_trained is None:
        num_trained = num_parameters if rank is None else num_adapted
    num_critic = model.count_parameters(without=OUTPUT)
    trainer = {
        "weights": part * (num_parameters + num_adapted) * size,
        "gradients": part * num_trained * 4.0,
        "optimizer": part * num_trained * kept,
    }
    if (config.grpo.use_kl_loss or config.grpo.kl_coef) and rank is None:  # else it is the model without adapters
        trainer["reference model"] = part * num_parameters * size
    if config.grpo.opd_teacher_load is not None:
        trainer["teacher"] = part * num_parameters * size
    if has_critic:
        trainer["critic"] = part * num_critic * (size + 4.0 + kept)
    if config.grpo.keep_old_actor:
        trainer["old weights"] = part * num_trained * size * ((config.rollout.max_staleness or 1) + 1)
    processes: dict[str, dict[str, float]] = {"driver": {}, "rollout manager": {}}
    for number in range(layout.world_size):
        processes["trainer" if layout.is_single else f"trainer {number}"] = dict(trainer)
    if config.ckpt.async_save:
        saved = 0 if config.ckpt.no_save_optim else 4.0 * (moments + (dtype != "float32"))
        weights = (num_parameters if rank is None else num_adapted) * size
        num_saved = num_trained + has_critic * num_critic
        copied = weights + has_critic * num_critic * size + num_saved * saved
        for number in range(layout.world_size):
            name = "trainer" if layout.is_single else f"trainer {number}"
            if config.ckpt.ckpt_format == "torch_dist":  # each process copies what it has
                processes[name]["copy to save"] = part * (copied - num_saved * saved * (1 - 1 / sharing))
            elif number == 0:
                processes[name]["copy to save"] = copied
        if config.ckpt.save_hf is not None and config.ckpt.ckpt_format == "torch_dist":
            processes["trainer" if layout.is_single else "trainer 0"]["copy to save"] += weights
    num_engines = num_embedded_engines(config)
    for index in range(num_engines):
        # as long as all serve: what a dead one leaves over comes on top
        rows = min(config.sglang.sglang_max_running_requests, -(-samples_in_flight // num_engines))
        tokens = (config.rollout.rollout_max_response_len or 0) + (config.rollout.rollout_max_prompt_len or 0)
        tokens = min(tokens, config.rollout.rollout_max_context_len or tokens)
        processes["engine" if num_engines == 1 else f"engine {index}"] = {
            "weights": num_parameters * size,
            "KV cache": float(rows * tokens * (model.kv_numbers_per_token() or 0) * size),
        }
    return tuple(
        ProcessMemory(name, {**parts, "libraries": LIBRARIES[name.rstrip(" 0123456789")]})
        for name, parts in processes.items()
    )
