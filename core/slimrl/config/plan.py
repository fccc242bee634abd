"""The plan of a run: what a configuration comes to, before anything is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slimrl.config import Config
from slimrl.config.batch import solve_batch
from slimrl.config.engines import check_device, num_embedded_engines, threads_per_engine
from slimrl.config.eval_sets import eval_datasets
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.memory import ProcessMemory, estimate_memory
from slimrl.config.resolve import num_rollouts
from slimrl.config.sft import is_sft
from slimrl.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Everything that is derived from a checked configuration and the number of prompts."""

    num_prompts: int | None
    """None where a data source of the user's hands them out."""
    rollout_batch_size: int
    n_samples_per_prompt: int
    samples_per_rollout: int
    global_batch_size: int
    num_steps_per_rollout: int
    num_rollout: int
    total_steps: int
    """Optimizer steps in all."""
    num_epochs: float | None
    """Passes over the prompts, if no group is dropped; None where nobody counts them."""
    rollout_max_response_len: int
    """0 where nothing is generated."""
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    num_threads: int
    num_engines: int
    """Embedded engines; 0 where others run already."""
    engine_threads: int
    """Threads of each."""
    num_parameters: int
    vocab_size: int | None
    """Token ids are below it, if the config says."""
    processes: tuple[ProcessMemory, ...]


def make_plan(
    config: Config, *, num_prompts: int | None, has_critic: bool = False, num_trained: int | None = None
) -> Plan:
    """What a configuration that `check` found no fault with comes to; raises ConfigError for what it cannot.

    `has_critic`: the estimator needs values. `num_trained`: see `estimate_memory`.
    """
    sizes = solve_batch(config.rollout)
    num_rollout = num_rollouts(config, num_prompts or 0)
    hf_checkpoint, max_response_len = config.ckpt.hf_checkpoint, config.rollout.rollout_max_response_len
    if num_rollout is None or hf_checkpoint is None or (max_response_len is None and not is_sft(config.rollout)):
        raise ConfigError("--num-rollout, --hf-checkpoint and --rollout-max-response-len are required")
    model = open_hf_folder(hf_checkpoint, "--hf-checkpoint")
    device = config.cluster.device
    if device == "auto":
        device = "cuda" if has_cuda_device() else "cpu"
    dtype = config.cluster.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    num_threads, num_engines = config.cluster.num_threads or num_cores(), num_embedded_engines(config)
    if problems := list(check_device(config, device)):
        raise ConfigError(problems)
    plan = Plan(
        num_prompts=num_prompts,
        rollout_batch_size=sizes.rollout_batch_size,
        n_samples_per_prompt=sizes.n_samples_per_prompt,
        samples_per_rollout=sizes.samples_per_rollout,
        global_batch_size=sizes.global_batch_size,
        num_steps_per_rollout=sizes.num_steps_per_rollout,
        num_rollout=num_rollout,
        total_steps=num_rollout * sizes.num_steps_per_rollout,
        num_epochs=num_rollout * sizes.rollout_batch_size / num_prompts if num_prompts else None,
        rollout_max_response_len=max_response_len or 0,
        device=device,
        dtype=dtype,
        num_threads=num_threads,
        num_engines=num_engines,
        engine_threads=threads_per_engine(num_threads, num_engines),
        num_parameters=model.count_parameters(),
        vocab_size=model.config.get("vocab_size"),
        processes=estimate_memory(
            config,
            model,
            dtype=dtype,
            samples_in_flight=_in_flight(config),
            has_critic=has_critic,
            num_trained=num_trained,
        ),
    )
    if problems := list(_warm_up(config, plan)):
        raise ConfigError(problems)
    return plan


def _warm_up(config: Config, plan: Plan) -> Iterator[str]:
    """Rates that would never be reached; a policy that is not trained at all has none."""
    optimizer, without = config.optimizer, config.grpo.num_critic_only_steps
    steps = max(plan.num_rollout - without, 0) * plan.num_steps_per_rollout
    left = f"--num-rollout {plan.num_rollout}"
    if without:
        left = f"({left} - --num-critic-only-steps {without})"
    if steps and optimizer.lr_warmup_iters >= steps:
        yield (
            f"--lr-warmup-iters {optimizer.lr_warmup_iters} must be below the {steps} optimizer "
            f"steps of the run ({left} x --num-steps-per-rollout {plan.num_steps_per_rollout})"
        )
    if (optimizer.critic_lr_warmup_iters or 0) >= plan.total_steps:
        yield (
            f"--critic-lr-warmup-iters {optimizer.critic_lr_warmup_iters} must be below the {plan.total_steps} optimizer "
            "steps of the run"
        )


def has_cuda_device(devices: Path = Path("/dev"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the driver shows an NVIDIA device that is not hidden; asking torch would cost its import."""
    if environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    # a container that has the fourth GPU alone has it under its number
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_flight(config: Config) -> int:
    rollout = config.rollout
    groups = rollout.over_sampling_batch_size or rollout.rollout_batch_size or 1
    return groups * rollout.n_samples_per_prompt


def format_plan(plan: Plan, config: Config) -> str:
    """The plan as text for a terminal."""
    p, gib = plan, 2**30
    length = f"{p.num_rollout:,} rollouts = {p.total_steps:,} optimizer steps"
    prompts = f"from {config.rollout.data_source_path}"
    if p.num_prompts is not None and p.num_epochs is not None:
        length += f", {p.num_epochs:.2f} epochs"
        prompts = f"{' '.join(config.rollout.prompt_data)}, {p.num_prompts:,} prompts"
    rows = [
        ("model", f"{config.ckpt.hf_checkpoint}, {p.num_parameters / 1e6:,.1f} M parameters"),
        ("prompts", prompts),
        ("batch", _batch_line(p)),
        ("length", length),
        ("reward", _reward_line(config)),
        ("device", f"{p.device}, {p.dtype}, {p.num_threads} threads"),
        ("engines", _engines_line(p, config)),
    ]
    if config.grpo.use_opd:
        rows.append(("teacher", str(config.grpo.opd_teacher_url or config.grpo.opd_teacher_load)))
    if config.eval.eval_interval:
        names = ", ".join(dataset.name for dataset in eval_datasets(config.eval, []))
        rows.append(("evaluation", f"{names} every {config.eval.eval_interval} rollouts"))
    lines = [f"{name:<12}{text}" for name, text in rows]
    lines += ["", f"{'process':<16}{'memory':>10}  of which"]
    for process in p.processes:
        parts = ", ".join(f"{name} {size / gib:.2f}" for name, size in process.parts.items())
        lines.append(f"{process.name:<16}{process.total / gib:>6.2f} GiB  {parts}")
    total = sum(process.total for process in p.processes)
    lines.append(f"{'all':<16}{total / gib:>6.2f} GiB  without activations, reward workers and Ray's own processes")
    return "\n".join(lines)


def _reward_line(config: Config) -> str:
    """What scores samples: the first that there is."""
    rollout = config.rollout
    if is_sft(rollout):
        return "none: rows are trained on as they are"
    named = rollout.custom_rm_path or " + ".join(rollout.reward) or (rollout.rm_type or "").strip()
    return named or ("what rows name (metadata.rm_type)" + ", else none" * config.grpo.use_opd)


def _engines_line(p: Plan, config: Config) -> str:
    if is_sft(config.rollout):
        return "none"
    if not p.num_engines:
        return f"running already: {' '.join(config.sglang.rollout_external_engine_addrs)}"
    return f"{p.num_engines} embedded with {p.engine_threads} of the threads each"


def _batch_line(p: Plan) -> str:
    return (
        f"{p.rollout_batch_size} prompts x {p.n_samples_per_prompt} samples = {p.samples_per_rollout} samples "
        f"= {p.global_batch_size} a step x {p.num_steps_per_rollout} optimizer steps a rollout"
    )
