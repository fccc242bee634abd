"""--async: generation beside training, and the age of weights that it bounds."""

from __future__ import annotations

from collections.abc import Iterator

from slimrl.config import Config, RolloutConfig


def check_async(config: Config) -> Iterator[str]:
    """What has no effect without --async, and what cannot be had with it."""
    rollout, defaults = config.rollout, RolloutConfig()
    interval, staleness = rollout.update_weights_interval, rollout.max_staleness
    if config.grpo.keep_old_actor and config.grpo.use_rollout_logprobs:
        yield "--keep-old-actor has no effect with --use-rollout-logprobs, which takes the engine's; leave one out"
    if not rollout.train_async:
        if config.grpo.keep_old_actor:
            yield "--keep-old-actor needs --async, which bounds how many generations of weights are kept"
        if staleness is not None:
            yield f"--max-staleness {staleness} has no effect without --async: every batch is of the newest weights"
        if interval != defaults.update_weights_interval:
            yield f"--update-weights-interval {interval} has no effect without --async"
        if rollout.update_weights_pause != defaults.update_weights_pause:
            yield "--update-weights-pause has no effect without --async: nothing is in flight when weights are sent"
        return
    if interval > (staleness or 1) >= 1:
        yield (
            f"--update-weights-interval {interval} is more than --max-staleness {staleness or 1} allows: the engine's "
            "weights would be too old to generate with; raise --max-staleness"
        )
    if rollout.partial_rollout:
        yield "--partial-rollout has no effect with --async, which never cuts off what is in flight; leave one out"
    if config.cluster.deterministic:
        yield "--async cannot be repeated to the last digit: what is ready when is timing; leave out --deterministic"
    if rollout.buffer_filter_path != defaults.buffer_filter_path:
        yield (
            f"--buffer-filter-path {rollout.buffer_filter_path} has no effect with --async: a batch takes the groups of "
            "the oldest weights first, which bounds their age"
        )
