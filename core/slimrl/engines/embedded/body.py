"""Turns the body of POST /generate into requests; everything wrong with it is a RequestError."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimrl.engines.embedded.engine import Engine
from slimrl.engines.embedded.params import RequestError, parse_sampling
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.sampling import derived_seed
from slimrl.engines.embedded.scoring import MAX_TOP

_UNSUPPORTED = (
    "input_embeds", "image_data", "video_data", "audio_data", "lora_path", "token_ids_logprob", "return_routed_experts",
    "return_hidden_states", "session_params",
)  # fmt: skip
"""Fields that would change the answer; other unknown ones are ignored, as SGLang does."""

MAX_RESPONSES = 4096
"""Of one call: prompts times n."""


@dataclass(frozen=True, slots=True)
class Job:
    """The requests of one call, in order: n neighbours for each prompt."""

    requests: list[Request]
    is_list: bool
    """Whether the answer is a list: for a batch, or for n > 1."""
    with_log_probs: bool
    with_token_text: bool
    is_stream: bool


def parse_job(body: Any, engine: Engine) -> Job:
    """Requests from a JSON body; raises RequestError."""
    if not isinstance(body, Mapping):
        raise RequestError("the body is not a JSON object")
    for name in _UNSUPPORTED:
        if body.get(name):
            raise RequestError(f"{name!r} is not supported by this engine")
    prompts, is_batch = _prompts(body, engine)
    count = len(prompts)
    vocab_size = engine.runner.vocab_size
    given = body.get("sampling_params") or {}
    if isinstance(given, list):
        _same_length("sampling_params", given, count)
        samplings = [parse_sampling(one, vocab_size) for one in given]
    else:
        samplings = [parse_sampling(given, vocab_size)] * count
    if len({sampling.n for sampling in samplings}) > 1:
        raise RequestError("n must be the same for all prompts of a batch")
    num_each = samplings[0].n
    if count * num_each > MAX_RESPONSES:
        raise RequestError(f"{count} prompts with n {num_each} are more than {MAX_RESPONSES} responses in one call")
    ids = _request_ids(body.get("rid"), count, num_each)
    with_log_probs = _each(body, "return_logprob", bool, False, count)
    starts = _each(body, "logprob_start_len", int, -1, count)
    tops = _each(body, "top_logprobs_num", int, 0, count)
    requests = []
    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        seed = engine.draw_seed() if sampling.sampling_seed is None else sampling.sampling_seed
        for copy in range(num_each):
            requests.append(
                Request(
                    request_id=ids[index * num_each + copy],
                    prompt_ids=prompt,
                    sampling=sampling,
                    seed=derived_seed(seed, copy),
                    score_from=_score_from(with_log_probs[index], starts[index], len(prompt)),
                    num_top=_num_top(with_log_probs[index], tops[index]),
                )
            )
    for request in requests:
        engine.check(request)
    return Job(
        requests=requests,
        is_list=is_batch or num_each > 1,
        with_log_probs=any(with_log_probs),
        with_token_text=bool(body.get("return_text_in_logprobs")),
        is_stream=bool(body.get("stream")),
    )


def _prompts(body: Mapping[str, Any], engine: Engine) -> tuple[list[tuple[int, ...]], bool]:
    text, ids = body.get("text"), body.get("input_ids")
    if (text is None) == (ids is None):
        raise RequestError("send exactly one of 'text' and 'input_ids'")
    if isinstance(text, str):
        return [tuple(engine.text.encode(text))], False
    if text is not None:
        if not isinstance(text, list) or not text or not all(isinstance(one, str) for one in text):
            raise RequestError("'text' must be a string or a list of strings, not empty")
        return [tuple(engine.text.encode(one)) for one in text], True
    if not isinstance(ids, list) or not ids:
        raise RequestError("'input_ids' must be a list of token ids or a list of such lists, not empty")
    is_batch = isinstance(ids[0], list)
    prompts = [_checked_ids(one) for one in (ids if is_batch else [ids])]
    return prompts, is_batch


def _checked_ids(ids: Any) -> tuple[int, ...]:
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise RequestError("'input_ids' must be a list of token ids or a list of such lists")
    return tuple(ids)


def _request_ids(given: Any, count: int, num_each: int) -> list[str]:
    if given is None:
        return [uuid.uuid4().hex for _ in range(count * num_each)]
    ids = [given] if isinstance(given, str) else given
    if not isinstance(ids, list) or not all(isinstance(one, str) and one for one in ids):
        raise RequestError("'rid' must be a string or a list of strings, not empty")
    if isinstance(given, str) and count > 1:
        ids = [f"{given}_{index}" for index in range(count)]
    _same_length("rid", ids, count)
    if num_each == 1:
        return ids
    return [f"{one}_{copy}" for one in ids for copy in range(num_each)]


def _each(body: Mapping[str, Any], name: str, kind: type, default: Any, count: int) -> list[Any]:
    """A field that is one value for all prompts or a list with one for each."""
    given = body.get(name)
    values = given if isinstance(given, list) else [default if given is None else given] * count
    _same_length(name, values, count)
    for value in values:
        if type(value) is not kind:
            raise RequestError(f"{name!r} must be a {kind.__name__}, got {value!r}")
    return values


def _same_length(name: str, values: list[Any], count: int) -> None:
    if len(values) != count:
        raise RequestError(f"{name!r} has {len(values)} entries for {count} prompts")


def _score_from(with_log_probs: bool, start: int, num_prompt: int) -> int | None:
    if not with_log_probs or start == -1:
        return None
    if not 0 <= start < num_prompt:
        raise RequestError(f"logprob_start_len is {start}; the prompt has {num_prompt} tokens")
    return start


def _num_top(with_log_probs: bool, count: int) -> int:
    if not 0 <= count <= MAX_TOP:
        raise RequestError(f"top_logprobs_num must be between 0 and {MAX_TOP}, got {count}")
    return count if with_log_probs else 0
