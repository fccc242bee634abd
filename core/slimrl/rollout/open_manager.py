"""The rollout manager with all that it works with: engines, reward workers, trackers, a teacher."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from slimrl.engines.health import HealthSettings
from slimrl.engines.pool import EnginePool
from slimrl.engines.rotation import EngineCare
from slimrl.observe.run_dir import RunDir
from slimrl.registry.plugin_set import PluginSet
from slimrl.rollout.manager import RolloutManager
from slimrl.rollout.record import Record
from slimrl.rollout.settings import RolloutSettings
from slimrl.rollout.teacher import open_teacher
from slimrl.scoring.scorer import Scorer

ENGINE_READY_S = 15.0
"""How long engines that run already may take to answer at the start."""


async def open_manager(
    settings: RolloutSettings,
    plugins: PluginSet,
    engine_urls: Sequence[str],
    care: EngineCare,
    run: RunDir,
    *,
    start: int,
) -> RolloutManager:
    """A manager with its engines, reward workers and trackers; `close` ends them but the engines.

    Raises EngineError when an engine does not answer.
    """
    resources = AsyncExitStack()
    engine = await resources.enter_async_context(
        EnginePool(
            engine_urls,
            concurrency=settings.concurrency,
            vocab_size=settings.vocab_size,
            care=care,
            on_event=run.event,
            health=HealthSettings(settings.health_check_interval_s, settings.health_check_timeout_s),
        )
    )
    await engine.wait_ready(ENGINE_READY_S)
    settings = replace(settings, concurrency=settings.concurrency * len(engine_urls))
    scorer = await resources.enter_async_context(Scorer(plugins.rewards, plugins.options, settings.scoring()))
    record = Record(run, plugins, use_tensorboard=settings.use_tensorboard, start=start)
    resources.callback(record.close)
    teacher = None
    if settings.teacher_url is not None:
        teacher = await resources.enter_async_context(
            open_teacher(
                settings.teacher_url,
                scorer.score,
                concurrency=settings.concurrency,
                vocab_size=settings.vocab_size,
                ready_s=ENGINE_READY_S,
            )
        )
    manager = RolloutManager(settings, plugins, engine, scorer, record, resources, teacher)
    gc.freeze()  # what is there now stays: a collection need not look at it again and again
    return manager
