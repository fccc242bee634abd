"""What POST /generate says of one request, in SGLang's words."""

from __future__ import annotations

import time
from typing import Any

from slimrl.engines.embedded.body import Job
from slimrl.engines.embedded.request import Request, TopTokens
from slimrl.engines.embedded.stops import shown_text
from slimrl.engines.embedded.text import Text


def answer(request: Request, job: Job, text: Text) -> dict[str, Any]:
    """The response object of one request, finished or under way (cumulative)."""
    reason = request.finish_reason
    # read once: the scheduler may append while this runs
    count = len(request.output_ids)
    output_ids = request.output_ids[:count]
    meta: dict[str, Any] = {
        "id": request.request_id,
        "finish_reason": reason,
        "prompt_tokens": len(request.prompt_ids),
        "completion_tokens": count,
        "cached_tokens": request.num_cached,
        "weight_version": request.weight_version,
        "weight_versions": [
            {"version": span.version, "start": span.start, "end": min(span.end, count)}
            for span in request.spans[:]
            if span.start < count
        ],
        "e2e_latency": (request.finished_s or time.monotonic()) - request.created_s,
        "num_retractions": request.num_retractions,
    }
    if job.with_log_probs:
        meta |= _log_probs(request, output_ids, text if job.with_token_text else None)
    return {"text": shown_text(request, output_ids, text.decode), "output_ids": output_ids, "meta_info": meta}


def _log_probs(request: Request, output_ids: list[int], text: Text | None) -> dict[str, Any]:
    def entry(log_prob: float | None, token: int) -> list[Any]:
        return [log_prob, token, None if text is None else text.show(token)]

    def entries(top: TopTokens) -> list[list[Any]]:
        return [entry(log_prob, token) for log_prob, token in top]

    found: dict[str, Any] = {
        "input_token_logprobs": [],
        "output_token_logprobs": [
            entry(log_prob, token) for log_prob, token in zip(request.log_probs, output_ids, strict=False)
        ],
    }
    if request.num_top:
        found["input_top_logprobs"] = []
        found["output_top_logprobs"] = [entries(top) for top in request.top[: len(output_ids)]]
    if request.score_from is not None:
        # nothing comes before the very first token
        is_unscored = request.score_from == 0
        tokens = request.prompt_ids[request.score_from :]
        log_probs: list[float | None] = [None] * is_unscored + list(request.input_log_probs)
        found["input_token_logprobs"] = [entry(*pair) for pair in zip(log_probs, tokens, strict=False)]
        if request.num_top:
            found["input_top_logprobs"] = [None] * is_unscored + [entries(top) for top in request.input_top]
    return found
