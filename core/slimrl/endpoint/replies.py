"""A reply in the JSON of OpenAI's API: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from slimrl.endpoint.session import Answer

Json = dict[str, Any]

PIECE: Final = re.compile(r"\s*\S+|\s+")
"""What of a text one chunk of a stream carries: a word with the space before it."""


def completion_json(answer: Answer, model: str, token_text: Callable[[int], str]) -> Json:
    """The body of a chat.completion."""
    message: Json = {"role": "assistant", "content": answer.text or (None if answer.calls else ""), "refusal": None}
    if answer.calls:
        message["tool_calls"] = _calls(answer)
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": _finish(answer),
        "logprobs": _log_probs(answer, token_text),
    }
    return {**_head("chat.completion", answer, model), "choices": [choice], "usage": _usage(answer)}


def content_chunks(answer: Answer, model: str, token_text: Callable[[int], str]) -> tuple[list[str], list[str]]:
    """The server-sent events of a stream: what carries the reply, and what ends it."""
    head = _head("chat.completion.chunk", answer, model)
    log_probs = _log_probs(answer, token_text)
    # log-probs are of tokens, not of words: with them the text is one chunk
    pieces = [answer.text] if log_probs else PIECE.findall(answer.text)
    deltas: list[Json] = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    if answer.calls:
        deltas.append({"tool_calls": [{"index": place, **call} for place, call in enumerate(_calls(answer))]})

    def events() -> Iterator[str]:
        for place, delta in enumerate(deltas):
            yield _event(head, delta, None, log_probs if place == 1 else None)

    last = [_event(head, {}, _finish(answer), None)]
    if answer.request.stream_usage:
        last.append(f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(answer)})}\n\n")
    return list(events()), [*last, "data: [DONE]\n\n"]


def models_json(model: str, created: int) -> Json:
    """The body of GET /v1/models."""
    return {
        "object": "list",
        "data": [{"id": model, "object": "model", "created": created, "owned_by": "slimrl"}],
    }


def _event(head: Json, delta: Json, finish: str | None, log_probs: Json | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": log_probs}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


def _head(kind: str, answer: Answer, model: str) -> Json:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.request.model or model,
    }


def _finish(answer: Answer) -> str:
    if answer.completion.finish_reason == "length":
        return "length"
    return "tool_calls" if answer.calls else "stop"


def _calls(answer: Answer) -> list[Json]:
    return [
        {"id": name, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for name, call in zip(answer.call_ids, answer.calls, strict=True)
    ]


def _log_probs(answer: Answer, token_text: Callable[[int], str]) -> Json | None:
    if not answer.request.logprobs:
        return None
    entries: list[Json] = []
    for token, log_prob in zip(answer.completion.tokens, answer.completion.log_probs, strict=True):
        text = token_text(token)
        entries.append({"token": text, "logprob": log_prob, "bytes": list(text.encode()), "top_logprobs": []})
    return {"content": entries, "refusal": None}


def _usage(answer: Answer) -> Json:
    prompt, written = len(answer.input_ids), len(answer.completion.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
