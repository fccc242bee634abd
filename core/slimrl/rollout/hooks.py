"""The functions of a run that the rollout manager calls, as flags name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slimrl.protocols import EngineClient, Generate
from slimrl.registry.plugin_set import PluginSet
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.slime_sample import SlimeSample, views
from slimrl.rollout.batch import advantages_of, check_batch, make_batch, trainable
from slimrl.rollout.blocking import BlockingWatch
from slimrl.rollout.produce import generated
from slimrl.rollout.slime_groups import SlimeSupply, shown_groups, write_back
from slimrl.rollout.supply import RunSupply
from slimrl.rollout.train_data import batch_of
from slimrl.traits import in_evaluation
from slimrl.types import Group, Sample, SamplingParams, Status, TrainBatch

DONE = (Status.COMPLETED, Status.TRUNCATED)


class RolloutHooks:
    """Calls each of them in its shape, ours or slime's; without a flag nothing is called.

    A function for one sample that raises makes that sample FAILED; any other ends the run with a RolloutError that
    names it and what it raised.
    """

    def __init__(self, plugins: PluginSet, on_event: Callable[..., None]) -> None:
        """`on_event` is told of a generator that blocks, as an event of the run."""
        self._plugins = plugins
        self._watch = BlockingWatch(lambda name, seconds: on_event("blocked", generator=name, seconds=seconds))
        self._of_samples = plugins.hooks("sample_hook")
        self.step = 0
        """The step that is generated for or evaluated; slime calls it rollout_id."""

    def around(self, generate: Generate, *, evaluation: bool = False) -> Generate:
        """The generator as it is for an evaluation or not, watched, with the sample hooks after it."""
        reference = self._plugins.reference_of(generate)
        generate = self._watch.watched(in_evaluation(generate) if evaluation else generate, reference)
        if not self._of_samples:
            return generate

        async def generate_and_call(
            sample: Sample, sampling: SamplingParams, engine: EngineClient, /
        ) -> Sample | Sequence[Sample]:
            returned = await generate(sample, sampling, engine)
            for one in generated(sample, returned):
                if one.status in DONE:
                    for hook in self._of_samples:
                        await self._call(hook, one, evaluation)
            return returned

        return generate_and_call

    async def _call(self, hook: RunHookFunction, sample: Sample, evaluation: bool) -> None:
        if not hook.is_slime:
            returned = await hook.wait(sample)
            if returned is not None and returned is not sample:
                raise hook.broke(f"returned {type(returned).__name__}; it returns the sample it was given, or None")
            return
        known = {"rollout_id": self.step, "evaluation": evaluation}
        keywords = {name: value for name, value in known.items() if name in hook.keywords}
        view = SlimeSample(sample)
        returned = await hook.wait(hook.args, view, **keywords)
        if returned is not None and not isinstance(returned, SlimeSample):
            raise hook.broke(f"returned {type(returned).__name__}; it returns a sample or None")
        write_back(hook, [[view if returned is None else returned]])

    def filter_samples(self, groups: Sequence[Group]) -> dict[str, float]:
        """Take samples out of the loss; how many there are that have tokens and none of them counts."""
        hook = self._plugins.hook("sample_filter")
        if hook is None:
            return {}
        if hook.is_slime:
            shown = shown_groups(groups)
            hook(hook.args, shown)
            write_back(hook, shown)
        else:
            known = {id(sample) for group in groups for sample in group}
            for sample in hook(groups) or ():
                if id(sample) not in known:
                    raise hook.broke("returned something that is not a sample of these groups")
                sample.loss_mask = [0] * len(sample.tokens)
        removed = [s for group in groups for s in group if s.tokens and not any(s.loss_mask)]
        return {"rollout/removed_samples": float(len(removed))}

    def process_all(self, groups: Sequence[Group], supply: RunSupply) -> None:
        """Show every finished group, in order of its id."""
        hook = self._plugins.hook("all_samples_process")
        if hook is None:
            return
        ordered = sorted(groups, key=lambda group: group.group_id)
        if hook.is_slime:
            hook(hook.args, shown_groups(ordered), SlimeSupply(hook, supply))
        else:
            hook(ordered, supply)

    def make_batch(self, groups: Sequence[Group]) -> tuple[TrainBatch, dict[str, float]]:
        """What is trained on, and what it says of itself."""
        batch = make_batch(self.step, groups)
        metrics: dict[str, float] = {}
        post_process = self._plugins.hook("reward_post_process")
        if post_process is not None:
            advantages, metrics = self._post_process(post_process, trainable(groups))
            batch = replace(batch, advantages=advantages)
        convert = self._plugins.hook("train_data_converter")
        if convert is None:
            return batch, metrics
        if convert.is_slime:
            samples = trainable(groups)
            made = batch_of(convert, convert(convert.args, views(samples)), samples, self.step)
        else:
            made = convert(batch, groups)
        if problem := check_batch(made):
            raise convert.broke(f"returned {problem}")
        return made, metrics

    def _post_process(self, hook: RunHookFunction, samples: Sequence[Sample]) -> tuple[Any, dict[str, float]]:
        """One advantage a sample; only samples with a score are shown, so a score that is missing is never a number."""
        if not hook.is_slime:
            return advantages_of(hook, hook(samples), len(samples)), {}
        returned = hook(hook.args, views(samples))
        if not isinstance(returned, list | tuple) or len(returned) != 2:
            raise hook.broke(f"returned {type(returned).__name__}; it returns two lists, raw and processed rewards")
        raw, processed = (advantages_of(hook, values, len(samples)) for values in returned)
        return processed, {"rollout/raw_reward_mean": float(raw.mean())} if len(raw) else {}

    def logs_rollout(self, groups: Sequence[Group], metrics: dict[str, float], seconds: float) -> bool:
        """Whether a function of the user's logs the metrics of a batch itself; it may add some."""
        hook = self._plugins.hook("rollout_log")
        if hook is None:
            return False
        if hook.is_slime:
            samples = [one for group in groups for one in views(group)]
            returned = hook(self.step, hook.args, samples, metrics, seconds)
        else:
            returned = hook(self.step, groups, metrics)
        return self._logs(hook, returned, metrics)

    def logs_evaluation(self, results: Mapping[str, Sequence[Group]], metrics: dict[str, float]) -> bool:
        """The same of an evaluation."""
        hook = self._plugins.hook("eval_log")
        if hook is None:
            return False
        if hook.is_slime:
            returned = hook(self.step, hook.args, {n: _shown_set(g) for n, g in results.items()}, metrics)
        else:
            returned = hook(self.step, results, metrics)
        return self._logs(hook, returned, metrics)

    def _logs(self, hook: RunHookFunction, returned: object, metrics: dict[str, float]) -> bool:
        for name, value in metrics.items():
            try:
                metrics[name] = float(value)
            except (TypeError, ValueError):
                raise hook.broke(f"set the metric {name!r} to {value!r}, which is no number") from None
        return bool(returned)


def _shown_set(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """An evaluation set as slime has it."""
    samples = [one for group in groups for one in views(group)]
    return {
        "rewards": [one.reward for one in samples],
        "truncated": [one.status is Status.TRUNCATED for one in samples],
        "samples": samples,
    }
