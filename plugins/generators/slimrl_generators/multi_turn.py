"""Several turns: after each reply of the model an environment says what comes next, until it has nothing to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any, Final

from slimrl import (
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Sample,
    SamplingParams,
    Status,
    UsageError,
    absolute_reference,
    continues_samples,
    hookimpl,
)
from slimrl_generators.conversation import Conversation, Template, Told, open_template
from slimrl_generators.user_function import Call, load_function, outside

NAME: Final = "multi_turn"
ROLES: Final = ("user", "tool", "system")
"""Whose words an environment may speak."""


@dataclass(frozen=True)
class EnvironmentOptions:
    """Options of the generator `multi_turn`."""

    environment_path: str = ""
    """The environment as `pkg.mod:attr` or `path/to/file.py:attr`: a function (sample, reply), sync or async, that returns what the model is told next, a text or messages, or None where the conversation is over."""  # noqa: E501  # a field's help is one line
    max_turns: int = 8
    """Replies of the model at most in one sample; one that the environment would have gone on with is truncated."""
    environment_timeout_s: float = 60.0
    """Seconds that the environment has after each reply; then the sample is failed."""

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise ValueError(f"--max-turns {self.max_turns} must be at least 1")
        if self.environment_timeout_s <= 0:
            raise ValueError(f"--environment-timeout-s {self.environment_timeout_s:g} must be above 0")
        object.__setattr__(self, "environment_path", absolute_reference(self.environment_path))


def make(options: PluginOptions) -> Generate:
    """The generator; UsageError where there is no environment, or no tokenizer."""
    own = options[EnvironmentOptions]
    if not own.environment_path:
        raise UsageError(
            "multi_turn needs an environment, a function (sample, reply): give --environment-path FILE.py:attr"
        )
    environment = outside(load_function("--environment-path", own.environment_path))
    return multi_turn(environment, open_template(options, NAME), own.max_turns, own.environment_timeout_s)


def multi_turn(environment: Call, template: Callable[[], Template], max_turns: int, timeout_s: float) -> Generate:
    """A generator that lets the model and an environment talk in turns."""

    @continues_samples
    async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient) -> Sample:
        """Talk until one of them is done; raises what the environment raises."""
        with Conversation(sample, sampling, engine, template(), name=NAME) as talk:
            while (reply := await talk.reply()) is not None:
                said = await _ask(environment, talk, reply, timeout_s)
                if said is None or sample.status is Status.TRUNCATED:
                    break
                if talk.turns >= max_turns:
                    sample.status = Status.TRUNCATED
                    break
                if not talk.tell(*said):
                    break
        return sample

    return generate


async def _ask(environment: Call, talk: Conversation, reply: str, timeout_s: float) -> list[Told] | None:
    """What the environment says to a reply. It gets a copy of the sample, of which the metadata is kept."""
    seen = copy(talk.sample)
    seen.metadata = deepcopy(talk.sample.metadata)
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            said = await environment(seen, reply)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise TimeoutError(
            f"the environment did not answer within {timeout_s:g} s (--environment-timeout-s) in turn {talk.turns}"
        ) from error
    _check_json(talk.sample.metadata, seen.metadata)
    talk.set_metadata(seen.metadata)
    return None if said is None else _messages(said)


def _messages(said: object) -> list[Told]:
    """What an environment returned, as messages; TypeError or ValueError where it is none."""
    if isinstance(said, str):
        return [{"role": "user", "content": said}]
    if not isinstance(said, list | tuple) or not said:
        raise TypeError(
            f"the environment returned {said!r:.100}; return a text, a list of messages, or None at the end"
        )
    for message in said:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise TypeError(
                f"the environment returned the message {message!r:.100}; it needs a role and a text as content"
            )
        if message.get("role") not in ROLES:
            raise ValueError(f"the environment speaks as {message.get('role')!r}; it may be {', '.join(ROLES)}")
    return list(said)


def _check_json(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """TypeError where what is new in the metadata would not come back from a checkpoint."""
    for key, value in after.items():
        if key not in before or before[key] != value:
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"the environment wrote no JSON into metadata[{key!r}]: {error}") from error


@hookimpl
def slimrl_options() -> Sequence[type]:
    """Which environment, for how many turns, and how long each may take."""
    return (EnvironmentOptions,)


@hookimpl
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:
    """Offers `multi_turn`."""
    return {NAME: make}
