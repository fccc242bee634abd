"""Generator `verifiers`: a verifiers environment plays one episode; reward `verifiers`: what its rubric said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from rl_generator_verifiers.resume import Resuming
from rl_generator_verifiers.stage import POLICY, Stage
from slimrl import (
    ChatTemplate,
    Endpoint,
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Reward,
    RewardError,
    Sample,
    SamplingParams,
    Status,
    UsageError,
    hookimpl,
    reward_traits,
)
from slimrl.config import CkptConfig

SCORING_ERRORS = ("TaskError", "EnvError")
"""What failed when an episode was played and only its judgement is missing."""


@dataclass(frozen=True)
class VerifiersOptions:
    """The generator `verifiers`."""

    verifiers_env: str = ""
    """The environment: an installed taskset's name, or a .toml file with verifiers' own settings ([taskset] id = ...)."""  # noqa: E501


def make(options: PluginOptions) -> Generate:
    """The generator; the environment is loaded here, so that a wrong name is told before the run starts."""
    checkpoint = options[CkptConfig].hf_checkpoint
    if checkpoint is None:
        raise UsageError("the generator verifiers needs --hf-checkpoint, whose chat template renders the conversation")
    return generator(Stage(options[VerifiersOptions].verifiers_env), lambda: ChatTemplate.open(checkpoint))


def generator(stage: Stage, template: Any) -> Generate:  # Any: a function that loads a ChatTemplate
    """The generator of an environment and a chat template."""
    endpoint = Endpoint(template, POLICY)

    async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient) -> Sample:
        origin = sample.metadata.get("verifiers")
        if not isinstance(origin, dict) or not isinstance(origin.get("index"), int):
            raise ValueError(
                "the row has no metadata.verifiers.index; write the prompt file with `python -m rl_generator_verifiers`"
            )
        task = stage.task(origin["index"])
        if origin.get("key") not in (None, task.key):
            raise ValueError(f"task {origin['index']} is not the one that the prompt file was written from")
        resuming = Resuming(engine, deepcopy(sample), origin.get("turns"))
        async with endpoint.session(resuming, sampling) as (url, session):
            episode = await stage.play(task, url, session.key)
        if session.engine_error is not None:
            raise session.engine_error
        if len(session.segments) != 1:
            raise RuntimeError(_no_single_conversation(session.segments, episode))
        session.segments[0].fill(sample)
        found = {**origin, "turns": resuming.turns}
        if session.over.is_set():
            sample.status, sample.reason = Status.ABORTED, session.abort_reason
        else:
            if session.is_spent:
                sample.status = Status.TRUNCATED
            found |= judgement(episode)
        sample.metadata = {**sample.metadata, "verifiers": found}
        return sample

    return generate


def judgement(episode: Any) -> dict[str, Any]:  # Any: verifiers' Episode
    """What the environment said of an episode as JSON; RuntimeError where the episode itself failed."""
    (trace,) = episode.traces
    errors = [*episode.errors, *trace.errors]
    if errors and errors[0].type not in SCORING_ERRORS:
        raise RuntimeError(f"the environment failed: {errors[0].type}: {errors[0].message}")
    if errors:
        return {"error": f"{errors[0].type}: {errors[0].message}"}
    missing = [name for name, reward in trace.rewards.items() if reward is None]
    if missing:
        return {"error": f"the environment gave no value for {', '.join(missing)}"}
    parts = {name: float(reward.value) for name, reward in trace.rewards.items()}
    metrics = {name: float(metric) for name, metric in trace.metrics.items() if metric is not None}
    return {"reward": float(trace.reward), "components": {**metrics, **parts}}


def make_reward(options: PluginOptions) -> Reward:
    """The reward; it has no options."""
    return score


@reward_traits(pure=True, inline=True, key="score")
def score(sample: Sample) -> dict[str, float]:
    """The environment's reward under `score`, with its weighted parts and its metrics by their names."""
    found = sample.metadata.get("verifiers")
    if not isinstance(found, dict) or not ("reward" in found or "error" in found):
        raise RewardError("no environment has judged this sample; use --custom-generate-function-path verifiers")
    if "error" in found:
        raise RewardError(found["error"])
    return {**found["components"], "score": found["reward"]}


def _no_single_conversation(segments: Sequence[Any], episode: Any) -> str:  # Any: Segments, an Episode
    if segments:
        return f"the environment held {len(segments)} conversations; only one that grows by turns can be trained on"
    errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
    reason = f"{errors[0].type}: {errors[0].message}" if errors else "it says no reason"
    return f"the environment ended before the model was asked: {reason}"


@hookimpl
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:
    """Offers `verifiers`."""
    return {"verifiers": make}


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `verifiers`."""
    return {"verifiers": make_reward}


@hookimpl
def slimrl_options() -> Sequence[type]:
    """The flag of `verifiers`."""
    return [VerifiersOptions]
