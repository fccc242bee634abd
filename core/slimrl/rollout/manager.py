"""The rollout manager: owns prompts, buffer, plugins and the engine client; hands out batches, keeps the record."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from slimrl.data.buffer import Buffer, is_finished
from slimrl.data.encoder import PromptEncoder
from slimrl.data.foreign import ForeignSource
from slimrl.data.source import PromptSource
from slimrl.data.training import open_training
from slimrl.engines.pool import EnginePool
from slimrl.observe.run_dir import write_atomically
from slimrl.protocols import DataSource, EngineClient, Generate
from slimrl.registry.plugin_set import PluginSet
from slimrl.rollout.activity import Activity
from slimrl.rollout.eval_function import OneEvaluation, evaluate_with
from slimrl.rollout.evaluate import EvalSet, evaluate, read_eval_sets, store_evaluation
from slimrl.rollout.events import MAX_TOLD, tell_outcomes
from slimrl.rollout.gate import Gate
from slimrl.rollout.hooks import RolloutHooks
from slimrl.rollout.insufficient import NeverVaried, is_fallback
from slimrl.rollout.loop import Filled, Produce, fill
from slimrl.rollout.metrics import buffer_metrics, rollout_metrics
from slimrl.rollout.partial import PartialRollout
from slimrl.rollout.pass_rate import pass_rate_metrics
from slimrl.rollout.produce import Score as ScoreGroup
from slimrl.rollout.produce import produce
from slimrl.rollout.record import Record
from slimrl.rollout.rollout_function import OneRollout, fill_with
from slimrl.rollout.settings import RolloutSettings
from slimrl.rollout.stream import Stream
from slimrl.rollout.supply import RunSupply
from slimrl.rollout.teacher import Teacher
from slimrl.scoring.scorer import Scorer
from slimrl.traits import does_continue
from slimrl.types import Group, SamplingParams, TrainBatch, TrainReport

STATE = "rollout.json"


class RolloutManager:
    """Fills batches, evaluates, and writes what happened into the run folder."""

    def __init__(
        self,
        settings: RolloutSettings,
        plugins: PluginSet,
        engine: EnginePool,
        scorer: Scorer,
        record: Record,
        resources: AsyncExitStack,
        teacher: Teacher | None = None,
    ) -> None:
        config = settings.rollout
        encoder = PromptEncoder.of_training(config, settings.hf_checkpoint)
        self._settings = settings
        self._plugins = plugins
        self._engine = engine
        self._scorer = scorer
        self._score = scorer.score if teacher is None else teacher.score
        self._record = record
        self._run = record.run
        self._resources = resources
        self.source = self._open_source(encoder)
        self._decode = partial(encoder.tokenizer.decode, skip_special_tokens=True)
        self.buffer = Buffer(
            plugins.buffer_filter,
            keeps_partial=config.partial_rollout,
            continues=does_continue(plugins.generate),
        )
        self._hooks = RolloutHooks(plugins, self._run.event)
        self._activity = Activity()
        self._stream = self._open_stream() if config.train_async else None
        self._never_varied = NeverVaried()
        self._eval_sets = read_eval_sets(settings, encoder)
        self._last: Filled | None = None
        self._cache_hits = 0
        self._not_logged: dict[int, frozenset[str]] = {}
        """By step: the metrics that a function of the user's logs itself."""

    def _open_source(self, encoder: PromptEncoder) -> DataSource:
        settings, config = self._settings, self._settings.rollout
        hook = self._plugins.hook("data_source")
        if hook is not None:
            return ForeignSource(hook, encoder, group_size=config.n_samples_per_prompt, seed=config.rollout_seed)
        prompts, left_out = open_training(settings.prompt_data, config, encoder, settings.hf_checkpoint)
        if left_out:
            self._run.event("rows_left_out", files=[asdict(entry) for entry in left_out])
        return PromptSource(
            prompts,
            encoder.encode,
            group_size=config.n_samples_per_prompt,
            shuffle=config.rollout_shuffle,
            seed=config.rollout_seed,
            parts=prompts.parts,
            source_of=prompts.source,
        )

    async def generate(self, step: int, version: int) -> tuple[TrainBatch, dict[str, float]]:
        """The batch of one step and its metrics, while the engine serves the weights `version`.

        Raises RolloutError when it cannot be filled.
        """
        self._hooks.step, started = step, time.perf_counter()
        filled, more = await self._filled(step, version)
        self._last = filled
        tell_outcomes(self._run, filled.kept + filled.dropped, self._plugins.references.generator, step=step)
        self._tell_insufficient(filled, step)
        metrics = {
            **rollout_metrics(filled, version=step),
            **buffer_metrics(self.buffer.groups),
            **(self._stream.metrics() if self._stream else {}),
            "perf/rollout_idle_share": self._activity.idle_share(),
            **self._cache_metrics(),
            **await self._engine_metrics(),
            **self._hooks.filter_samples(filled.kept),
            **more,
        }
        if self._settings.eval.log_passrate:
            metrics |= pass_rate_metrics(
                filled.kept + filled.dropped, "rollout/", self._settings.eval.eval_pass_threshold
            )
        self._hooks.process_all(filled.kept + filled.dropped, RunSupply(self.source, self.buffer))
        batch, batch_metrics = self._hooks.make_batch(filled.kept)
        metrics |= batch_metrics
        if self._hooks.logs_rollout(filled.kept, metrics, time.perf_counter() - started):
            self._not_logged[step] = frozenset(metrics)
        return batch, metrics

    async def _filled(self, step: int, version: int) -> tuple[Filled, dict[str, float]]:
        """A batch, and metrics of a function of the user's that filled it."""
        hook = self._plugins.hook("rollout_function")
        if hook is None:
            return await (self._fill(step, version) if self._stream is None else self._stream.batch(step, version)), {}
        sampling, gate = self._settings.sampling(), Gate(self._engine, self._settings.concurrency)
        rollout = OneRollout(
            step,
            self._settings.batch_size,
            sampling,
            gate,
            RunSupply(self.source, self.buffer),
            self._plugins.dynamic_filter,
            self._produce(sampling, gate),
        )
        return await fill_with(hook, rollout, self._score, self._settings.fill())

    async def _fill(self, step: int, version: int) -> Filled:
        """A batch for which everything is generated now."""
        config = self._settings.rollout
        assert config.num_rollout is not None, "derived with the configuration"
        gate = Gate(self._engine, self._settings.concurrency)
        filled = await fill(
            self.source,
            self.buffer,
            self._produce_partial(gate, version),
            self._plugins.dynamic_filter,
            replace(self._settings.fill(), left=(config.num_rollout - step) * self._settings.batch_size),
            gate.shut if config.partial_rollout else None,
        )
        if not config.partial_rollout and not all(is_finished(group) for group in self.buffer.groups):
            await self._engine.abort_all()  # what was cut off would otherwise be generated for nobody
        return filled

    def _open_stream(self) -> Stream:
        """Batches that are generated while the trainer trains."""
        config = self._settings.rollout
        assert config.max_staleness is not None and config.num_rollout is not None, "derived with the configuration"
        return Stream(
            self.source,
            self.buffer,
            self._produce(self._settings.sampling(), Gate(self._engine, self._settings.concurrency)),
            self._plugins.dynamic_filter,
            self._settings.fill(),
            max_staleness=config.max_staleness,
            num_steps=config.num_rollout,
        )

    def _tell_insufficient(self, filled: Filled, step: int) -> None:
        """An event where groups were taken because there were too few, with the prompts that never vary."""
        if self._plugins.dynamic_filter is not None:
            self._never_varied.observe(filled.kept + filled.dropped)
        taken = [group for group in filled.kept if is_fallback(group)]
        if taken:
            flat = [prompt.told() for prompt in self._never_varied.prompts[:MAX_TOLD]]
            self._run.event("insufficient", step=step, taken=[g.group_id for g in taken], never_varied=flat)

    def _cache_metrics(self) -> dict[str, float]:
        """Samples that were scored from memory since the last call; in no count of a step, it is not repeatable."""
        hits, self._cache_hits = self._scorer.cache_hits - self._cache_hits, self._scorer.cache_hits
        return {"perf/score_cache_hits": float(hits)}

    async def _engine_metrics(self) -> dict[str, float]:
        """What the engines did since the last call."""
        spent = await self._engine.model_cpu_s()
        return self._engine.metrics() | ({} if spent is None else {"perf/engine_model_cpu_s": spent})

    def publishing(self) -> None:
        """The engines are about to stand still for new weights, until `published`."""
        self._engine.publishing()

    def published(self, version: int, failed: Mapping[int, str]) -> None:
        """The engines have new weights, but for those that `failed`, by number with the reason."""
        self._engine.published(version, failed)

    async def evaluate(self, step: int) -> dict[str, float]:
        """Metrics of every evaluation set under the engine's weights, which have seen `step` steps; stores samples."""
        self._hooks.step = step
        results: dict[str, list[Group]] = {}
        hook = self._plugins.hook("eval_function")
        if hook is None:
            metrics = await evaluate(
                self._eval_sets,
                self._produce_set,
                self._run,
                step,
                stop_on_unscored=self._settings.rollout.on_unscored == "stop",
                results=results,
            )
        else:
            evaluation = OneEvaluation(step, self._eval_sets, self._engine, self._produce_set)
            supply = RunSupply(self.source, self.buffer)
            key = self._settings.eval.eval_reward_key or self._settings.rollout.reward_key
            metrics, results = await evaluate_with(hook, evaluation, supply, key)
            for name, groups in results.items():
                store_evaluation(self._run.path, name, step, groups)
        if self._hooks.logs_evaluation(results, metrics):
            metrics = {}
        self._cache_metrics()  # as below
        await self._engine_metrics()  # the next step's figure begins here
        return metrics

    def _produce_set(self, eval_set: EvalSet) -> Produce:
        generate = self._hooks.around(self._plugins.generate_for(eval_set.name), evaluation=True)
        return self._produce(eval_set.sampling, generate=generate, score=self._scorer.score)

    def _produce(
        self,
        sampling: SamplingParams,
        engine: EngineClient | None = None,
        generate: Generate | None = None,
        score: ScoreGroup | None = None,
    ) -> Produce:
        return self._activity.watched(
            partial(
                produce,
                generate=generate or self._hooks.around(self._plugins.generate),
                engine=engine or self._engine,
                score=score or self._score,
                sampling=sampling,
                retries=self._settings.rollout.generate_retries,
            )
        )

    def _produce_partial(self, gate: Gate, version: int) -> Produce:
        config = self._settings.rollout
        rollout = PartialRollout(
            self._hooks.around(self._plugins.generate),
            self._score,
            gate,
            version,
            mask_offpolicy=config.mask_offpolicy_in_partial_rollout,
            decode=self._decode,
        )
        return self._activity.watched(
            partial(
                produce,
                generate=rollout.generate,
                engine=gate,
                score=rollout.score,
                sampling=self._settings.sampling(),
                retries=config.generate_retries,
            )
        )

    def record(self, step: int, metrics: Mapping[str, float], report: TrainReport, batch: TrainBatch) -> None:
        """Write a trained step into the run folder: its samples with their advantages, and its metrics."""
        assert self._last is not None, "record follows generate"
        advantages = dict(zip(batch.sample_ids.tolist(), report.advantages.tolist(), strict=True))
        groups = sorted(self._last.kept + self._last.dropped, key=lambda g: g.group_id)
        self._record.samples(step, groups, advantages)
        left_out = self._not_logged.pop(step, frozenset())
        self.log(step, {name: value for name, value in metrics.items() if name not in left_out})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics to the run folder and the trackers, if there are any."""
        self._record.metrics(step, metrics)

    def save(self, folder: Path) -> None:
        """Write data position, buffer and what is under way into a checkpoint."""
        state = {
            "source": self.source.state(),
            "buffer": (self._stream.state() if self._stream else []) + self.buffer.state(),
            "never_varied": self._never_varied.state(),
        }
        write_atomically(folder / STATE, json.dumps(state, default=str))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint's data position and buffer."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.source.restore(state["source"])
        self.buffer.restore(state["buffer"])
        if "never_varied" in state:  # a checkpoint of an earlier version has none
            self._never_varied.restore(state["never_varied"])

    async def close(self) -> None:
        """Stop generating; end the reward's workers, the client and the trackers."""
        if self._stream is not None:
            await self._stream.close()
        await self._resources.aclose()
