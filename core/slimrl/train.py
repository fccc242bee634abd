"""The loop: evaluate, generate, train, sync, save."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from slimrl.checkpoints import Start
from slimrl.claim import claimed
from slimrl.cluster.actors import PluginPass
from slimrl.cluster.crew import Crew, CrewSettings
from slimrl.cluster.ray_session import ray_session
from slimrl.cluster.trainer_actors import TrainerSettings
from slimrl.config import Config
from slimrl.config.distillation import teacher_address
from slimrl.config.eval_sets import eval_datasets
from slimrl.config.flags import Origins
from slimrl.config.layout import layout_of
from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.plan import Plan
from slimrl.config.prompt_files import parse_prompt_file
from slimrl.config.toml import to_toml
from slimrl.engines.process import EngineSettings
from slimrl.interrupt import Interrupt
from slimrl.observe.clock import StepClock
from slimrl.observe.cpu import ProcessMeter
from slimrl.observe.curve import draw_reward_curve
from slimrl.observe.notices import tell, watch_of
from slimrl.observe.progress import StepProgress
from slimrl.observe.run_dir import RunDir, write_atomically
from slimrl.observe.summary import print_summary
from slimrl.registry.plugin_set import PluginSet
from slimrl.rollout.settings import RolloutSettings
from slimrl.run_start import check_gpu, find_run_folder, find_run_start
from slimrl.saving import Saving


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    run: RunDir
    step: int
    """Steps that the weights have seen."""
    interrupted: bool
    checkpoints: Path
    """The folder of checkpoints; an interrupted run has one there."""


def loop(crew: Crew, config: Config, plan: Plan, run: RunDir, start: int, progress: StepProgress) -> Finished:
    """Train from step `start` to the end or to Ctrl-C."""
    checkpoints = config.ckpt.save or run.checkpoints
    wants_checkpoints = any(
        (config.ckpt.save, config.ckpt.save_interval, config.ckpt.save_hf, config.trained.lora_rank)
    )
    step = saved = version = start
    meter, watch = ProcessMeter(), watch_of(run)
    crew.publish(version=start)
    saving = Saving(crew, config.ckpt, checkpoints.absolute(), run)
    with Interrupt(progress.say) as interrupt, saving:
        while step < plan.num_rollout and not interrupt.asked:
            if is_eval_due(config, step):
                evaluate(crew, step, progress)
            clock = StepClock(meter)
            with clock.phase("generate", progress):
                batch, rollout_metrics = crew.generate(step, version)
            with clock.phase("train", progress):
                report = crew.train(batch)
            with clock.phase("sync", progress):
                if is_publish_due(config, plan, step + 1):
                    version = step + 1
                sync_metrics = crew.publish(version) if version == step + 1 else {}
            metrics = {**rollout_metrics, **report.metrics, **sync_metrics, **clock.metrics(rollout_metrics)}
            crew.record(step, metrics, report, batch)
            saving.look()
            progress.step_done(step, metrics)
            tell(run, watch.see(step, metrics), progress.say)
            step += 1
            if config.ckpt.save_interval and step % config.ckpt.save_interval == 0:
                saved = save(saving, step, progress)
        if config.eval.eval_interval and not interrupt.asked:
            evaluate(crew, step, progress)
        if step > saved and (wants_checkpoints or interrupt.asked):
            saved = save(saving, step, progress)
    return Finished(run, step, interrupt.asked, checkpoints)


def is_eval_due(config: Config, step: int) -> bool:
    """Whether the weights are evaluated before step `step`."""
    if not config.eval.eval_interval or (step == 0 and config.eval.skip_eval_before_train):
        return False
    return step % config.eval.eval_interval == 0


def is_publish_due(config: Config, plan: Plan, step: int) -> bool:
    """Whether the engine gets the weights that have seen `step` steps."""
    is_last = step == plan.num_rollout
    return is_last or step % config.rollout.update_weights_interval == 0 or is_eval_due(config, step)


def evaluate(crew: Crew, step: int, progress: StepProgress) -> None:
    """Evaluate the weights that have seen `step` steps."""
    progress.phase("evaluate")
    metrics = crew.evaluate(step)
    crew.log(step, metrics)
    progress.evaluated(step, metrics)


def save(saving: Saving, step: int, progress: StepProgress) -> int:
    """Save what has seen `step` steps; returns the step."""
    progress.phase("save")
    saving.save(step)
    return step


def open_run(run: RunDir, config: Config, plan: Plan, start: Start, plugins: PluginSet, origins: Origins) -> None:
    """Write what the run begins with into its folder."""
    run.create()
    run.forget_from(start.step)
    write_atomically(run.config, to_toml(config, origins, plugins.options.of_plugins()))
    write_atomically(run.plugins_lock, json.dumps(plugins.lock(), indent=1) + "\n")
    run.event(
        "start",
        step=start.step,
        checkpoint=start.checkpoint,
        weights=start.weights,
        plugins=plugins.fingerprint,
        device=plan.device,
        dtype=plan.dtype,
        num_rollout=plan.num_rollout,
    )


def resume_warnings(start: Start, run: RunDir, plugins: PluginSet) -> Iterator[tuple[str, str]]:
    """What a resumed run must know of its checkpoint: newer ones that were damaged, plugins that changed."""
    for reason in start.passed_over:
        yield "checkpoint_damaged", f"{reason}; going on from {start.checkpoint}"
    if start.weights is not None:
        kind = "Megatron" if tensors_folder(start.weights) is not None else "Hugging Face"
        yield "weights_alone", f"{start.weights} is of {kind}: its weights alone are taken, training starts anew"
    lock = start.checkpoint and start.checkpoint / run.plugins_lock.name
    if lock and lock.exists():
        saved = {(row["kind"], row["reference"]): row["sha256"] for row in json.loads(lock.read_text())}
        now = {(row["kind"], row["reference"]): row["sha256"] for row in plugins.lock()}
        changed = sorted({f"{key[0]} {key[1]}" for key in saved.keys() | now.keys() if saved.get(key) != now.get(key)})
        if changed:
            yield "plugins_changed", f"since {start.checkpoint} was written these plugins changed: {', '.join(changed)}"


def train(config: Config, plan: Plan, plugins: PluginSet, origins: Origins) -> Finished:
    """Run a checked configuration.

    Raises UsageError for what the user can mend, RolloutError or TrainError when the run cannot go on.
    """
    check_gpu(config, plan.device)
    start = find_run_start(config)
    run = find_run_folder(config, start)
    with claimed((run.path, config.ckpt.save or run.path)):
        open_run(run, config, plan, start, plugins, origins)
        return _train(run, config, plan, start, plugins)


def _train(run: RunDir, config: Config, plan: Plan, start: Start, plugins: PluginSet) -> Finished:
    for event, message in resume_warnings(start, run, plugins):
        sys.stderr.write(f"warning: {message}\n")
        run.event(event, message=message)
    console = Console()
    progress = StepProgress(plan.num_rollout, start.step, console=console, live=config.observe.progress)
    with progress:
        progress.phase("start processes")
        with ray_session(config.cluster.ray_address, num_threads=plan.num_threads) as ray:
            crew = Crew(ray, crew_settings(config, plan, plugins, run, start))
            try:
                finished = loop(crew, config, plan, run, start.step, progress)
            finally:
                crew.close()
    draw_reward_curve(run.read_metrics(), run.curve)
    run.event("interrupted" if finished.interrupted else "end", step=finished.step)
    print_summary(run, console)
    return finished


def crew_settings(config: Config, plan: Plan, plugins: PluginSet, run: RunDir, start: Start) -> CrewSettings:
    """What each process is started with."""
    c = config
    layout = layout_of(c.cluster, c.perf, c.optimizer)
    assert c.ckpt.hf_checkpoint, "checked with the configuration"
    hf_checkpoint = c.ckpt.hf_checkpoint.resolve()
    engine = EngineSettings(
        model_path=hf_checkpoint,
        device=plan.device,
        dtype=plan.dtype,
        num_threads=plan.engine_threads,
        max_running_requests=c.sglang.sglang_max_running_requests,
        deterministic=c.cluster.deterministic,
        random_seed=c.cluster.seed,
    )
    return CrewSettings(
        engine=engine,
        num_engines=plan.num_engines,
        external_engines=tuple(f"http://{address}" for address in c.sglang.rollout_external_engine_addrs),
        rollout=RolloutSettings(
            rollout=c.rollout,
            eval=c.eval,
            hf_checkpoint=hf_checkpoint,
            vocab_size=plan.vocab_size,
            prompt_data=tuple(parse_prompt_file(word).resolved() for word in c.rollout.prompt_data),
            batch_size=plan.rollout_batch_size,
            max_response_len=plan.rollout_max_response_len,
            concurrency=c.sglang.sglang_server_concurrency,
            deterministic=c.cluster.deterministic,
            use_tensorboard=c.observe.use_tensorboard,
            eval_sets=tuple(eval_datasets(c.eval, [])),
            health_check_interval_s=c.sglang.rollout_health_check_interval,
            health_check_timeout_s=c.sglang.rollout_health_check_timeout,
            teacher_url=c.grpo.opd_teacher_url and teacher_address(c.grpo.opd_teacher_url),
        ),
        trainer=TrainerSettings(
            ckpt=replace(
                c.ckpt,
                hf_checkpoint=hf_checkpoint,
                ref_load=c.ckpt.ref_load and c.ckpt.ref_load.resolve(),
                critic_load=c.ckpt.critic_load and c.ckpt.critic_load.resolve(),
            ),
            model=c.model,
            trained=c.trained,
            grpo=replace(c.grpo, opd_teacher_load=c.grpo.opd_teacher_load and c.grpo.opd_teacher_load.resolve()),
            optimizer=c.optimizer,
            perf=c.perf,
            rollout_temperature=c.rollout.rollout_temperature,
            num_steps_per_rollout=plan.num_steps_per_rollout,
            global_batch_size=plan.global_batch_size,
            total_steps=plan.num_rollout * plan.num_steps_per_rollout,
            max_response_len=plan.rollout_max_response_len,
            max_staleness=c.rollout.max_staleness or 0,
            pause=c.rollout.update_weights_pause,
            device=plan.device,
            dtype=plan.dtype,
            num_threads=max(plan.num_threads // c.cluster.actor_num_gpus_per_node, 1),
            seed=c.cluster.seed,
            deterministic=c.cluster.deterministic,
            layout=layout,
            num_machines=c.cluster.actor_num_nodes,
        ),
        plugins=PluginPass(plugins.references, plugins.options, plugins.fingerprint),
        run=run.path,
        checkpoint=start.checkpoint and start.checkpoint.absolute(),
        weights=start.weights and start.weights.absolute(),
        start=start.step,
    )
