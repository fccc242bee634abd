"""An agent that speaks OpenAI's API acts, and its turns become the sample's trainable tokens."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, Literal

from slimrl import (
    ChatTemplate,
    Endpoint,
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Sample,
    SamplingParams,
    Segment,
    Session,
    SlimrlError,
    Status,
    UsageError,
    absolute_reference,
    hookimpl,
)
from slimrl.config import CkptConfig, RolloutConfig
from slimrl_generators.agent_process import run_process
from slimrl_generators.user_function import load_function, outside

OURS: Final = ("agent_result", "agent_segments", "agent_segment")
"""What the generator writes into the metadata."""

Act = Callable[[str, str, Sample], Awaitable[Any]]
"""Base URL, API key and sample to whatever the agent returns."""


@dataclass(frozen=True)
class AgentOptions:
    """Options of the generator `openai_agent`."""

    agent_path: str = ""
    """The agent as `pkg.mod:attr` or `path/to/file.py:attr`: a function (base_url, api_key, sample), sync or async, which runs in a thread. What it returns, if anything, must be JSON and is kept as the sample's metadata `agent_result`."""  # noqa: E501  # a field's help is one line
    agent_command: str = ""
    """The agent as a command, started once for every sample with OPENAI_BASE_URL and OPENAI_API_KEY in its environment and one line of JSON, the prompt and the metadata, on its stdin."""  # noqa: E501
    agent_timeout_s: float = 600.0
    """Seconds until an agent that has not ended is stopped (a process with its children: killed) and its sample is failed."""  # noqa: E501
    agent_segments: Literal["all", "longest"] = "all"
    """Which of a trajectory's conversations are trained on, where it has several: each as a sample of its own, or the one that has most of the model."""  # noqa: E501
    agent_own_sampling: bool = False
    """Let requests set temperature, top_p and seed. A turn at another temperature or top_p than the run's is not trained on. Otherwise the run's hold for every turn."""  # noqa: E501

    def __post_init__(self) -> None:
        if self.agent_timeout_s <= 0:
            raise ValueError(f"--agent-timeout-s {self.agent_timeout_s:g} must be above 0")
        object.__setattr__(self, "agent_path", absolute_reference(self.agent_path))


def make(options: PluginOptions) -> Generate:
    """The generator; UsageError where there is not exactly one agent, or no chat template."""
    agent = options[AgentOptions]
    if bool(agent.agent_path) == bool(agent.agent_command):
        raise UsageError("openai_agent needs an agent: give either --agent-path or --agent-command")
    checkpoint = options[CkptConfig].hf_checkpoint
    if checkpoint is None:
        raise UsageError("openai_agent renders messages with the chat template of --hf-checkpoint; give one")
    act = path_agent(agent.agent_path) if agent.agent_path else command_agent(agent.agent_command)
    variables = json.loads(options[RolloutConfig].apply_chat_template_kwargs or "{}")
    endpoint = Endpoint(
        lambda: ChatTemplate.open(checkpoint, variables),
        checkpoint.resolve().name,
        own_sampling=agent.agent_own_sampling,
    )
    return agent_generator(act, endpoint, agent.agent_timeout_s, trains_all=agent.agent_segments == "all")


def agent_generator(act: Act, endpoint: Endpoint, timeout_s: float, *, trains_all: bool = True) -> Generate:
    """A generator that lets an agent act through an endpoint, for so long at most."""

    async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient) -> Sample | list[Sample]:
        """Let the agent act; raises with why its trajectory cannot be trained on."""
        for ours in OURS:  # of an earlier try
            sample.metadata.pop(ours, None)
        async with endpoint.session(engine, sampling) as (base_url, session):
            trouble = await _run(act(base_url, session.key, sample), session, sample, timeout_s)
        longest = session.longest_first()[:1]
        if len(session.segments) > 1:
            sample.metadata["agent_segments"] = len(session.segments)
        if session.over.is_set():
            longest[0].fill(sample)
            sample.status, sample.reason = Status.ABORTED, session.abort_reason
            return sample
        if trouble is not None and not (session.is_spent and longest):
            raise session.engine_error or trouble
        if not longest:
            raise session.engine_error or SlimrlError("the agent ended without a reply of the model")
        trained = [segment for segment in session.segments if any(segment.sample.loss_mask)] if trains_all else []
        siblings = _siblings(sample, trained or longest)
        if session.is_spent:
            for one in siblings:
                one.status = Status.TRUNCATED
        return siblings if len(siblings) > 1 else sample

    return generate


def _siblings(sample: Sample, segments: Sequence[Segment]) -> list[Sample]:
    """A sample for each segment; `sample` becomes the first."""
    siblings = [sample, *(deepcopy(sample) for _ in segments[1:])]
    for place, (one, segment) in enumerate(zip(siblings, segments, strict=True)):
        segment.fill(one)
        if len(segments) > 1:
            one.metadata["agent_segment"] = place
    return siblings


async def _run(acting: Awaitable[Any], session: Session, sample: Sample, timeout_s: float) -> Exception | None:
    """Wait for the agent; returns what went wrong. It is stopped where the engine aborts or the time is over."""
    work = asyncio.ensure_future(acting)
    over = asyncio.ensure_future(session.over.wait())
    try:
        await asyncio.wait({work, over}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if session.over.is_set():
            return None
        if not work.done():
            return TimeoutError(f"the agent did not end within {timeout_s:g} s (--agent-timeout-s)")
        result = work.result()
        if result is not None:
            sample.metadata["agent_result"] = json.loads(json.dumps(result, allow_nan=False))
    except Exception as error:  # a plugin's edge: whatever the agent raised is this sample's failure
        return error
    finally:
        for task in (work, over):
            task.cancel()
        await asyncio.gather(work, over, return_exceptions=True)
    return None


def path_agent(reference: str) -> Act:
    """The agent that a reference names; UsageError where it names none."""
    return outside(load_function("--agent-path", reference))


def command_agent(command: str) -> Act:
    """An agent that is a command; UsageError where there is no such program."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--agent-command {command}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--agent-command {command}: there is no program {words[0] if words else ''!r}")

    def act(base_url: str, api_key: str, sample: Sample) -> Coroutine[Any, Any, None]:
        given = json.dumps({"prompt": sample.prompt, "metadata": sample.metadata}, default=str) + "\n"
        return run_process(words, given, {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": api_key})

    return act


@hookimpl
def slimrl_options() -> Sequence[type]:
    """Which agent, for how long, and what it may choose."""
    return (AgentOptions,)


@hookimpl
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:
    """Offers `openai_agent`."""
    return {"openai_agent": make}
