"""One answer of POST /generate as a Completion: tokens, log-probs and weight versions of one length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slimrl.errors import EngineError
from slimrl.types import Completion

UNKNOWN_VERSION = -1
"""The weight version of tokens whose engine names its weights by something that is not an integer."""


def parse_completion(reply: Any, seconds: float) -> Completion:  # Any: JSON from outside, checked here
    """The Completion in a reply of POST /generate that was asked with return_logprob.

    Tokens come with their log-probs or not at all: EngineError when their numbers differ, when a log-prob is not
    finite, or when the generation is not finished. The matched stop token is among the tokens.
    """
    try:
        meta = reply["meta_info"]
        finish = meta["finish_reason"] or {"type": "missing"}
        tokens, log_probs = _split(meta.get("output_token_logprobs") or [])
        output_ids = reply.get("output_ids")
        if output_ids is not None and output_ids != tokens:
            raise EngineError(
                f"the engine returned {len(output_ids)} tokens but the log-probs of {len(tokens)} "
                f"for request {meta.get('id')!r}; they must be the same tokens"
            )
        if finish["type"] not in ("stop", "length", "abort"):
            raise EngineError(f"the engine ended request {meta.get('id')!r} for an unknown reason: {finish['type']}")
        return Completion(
            tokens=tokens,
            log_probs=log_probs,
            weight_versions=version_per_token(meta, len(tokens)),
            text=reply["text"],
            finish_reason=finish["type"],
            finish_message=finish.get("message") or "",
            num_prompt_tokens=meta.get("prompt_tokens") or 0,
            num_cached_tokens=meta.get("cached_tokens") or 0,
            seconds=seconds,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"the engine's answer is not one of POST /generate ({error!r}): {str(reply)[:300]}"
        ) from error


def version_per_token(meta: Mapping[str, Any], num_tokens: int) -> list[int]:
    """The weight version of each output token, from spans (SGLang from 0.5.19 on) or the one version of the reply.

    A version that is not a decimal integer (SGLang starts with "default") becomes UNKNOWN_VERSION.
    """
    versions = [_version(meta.get("weight_version"))] * num_tokens
    for span in meta.get("weight_versions") or ():
        start, end = max(span["start"], 0), min(span["end"], num_tokens)
        versions[start:end] = [_version(span["version"])] * (end - start)
    return versions


def _split(entries: Sequence[Sequence[Any]]) -> tuple[list[int], list[float]]:
    """[[log-prob, token id, text], ...] as tokens and log-probs."""
    if not entries:
        return [], []
    # zip and fsum run in C: nothing here costs Python time per token
    log_probs, tokens, *_ = zip(*entries, strict=True)
    if not math.isfinite(math.fsum(log_probs)):
        raise EngineError("the engine returned a log-prob that is not a finite number; its weights are broken")
    return list(tokens), list(log_probs)


def _version(version: object) -> int:
    text = str(version)
    return int(text) if text.isdecimal() else UNKNOWN_VERSION
