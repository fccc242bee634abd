"""When a response ends, in SGLang's order: length first, then token ids, then strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import FinishReason, Request

Decode = Callable[[Sequence[int], Sampling], str]
"""(token ids, how to show special tokens) -> text."""


def stop_ids(sampling: Sampling, end_ids: frozenset[int]) -> frozenset[int]:
    """Tokens that end a response; ignore_eos switches off all of them, as in SGLang."""
    return frozenset() if sampling.ignore_eos else sampling.stop_token_ids | end_ids


def finish_reason(request: Request, end_ids: frozenset[int], decode: Decode) -> FinishReason | None:
    """Why a request is finished with the token it has just got, or None."""
    sampling, output_ids = request.sampling, request.output_ids
    if len(output_ids) >= sampling.max_new_tokens:
        return {"type": "length", "length": len(output_ids)}
    if output_ids[-1] in stop_ids(sampling, end_ids):
        return {"type": "stop", "matched": output_ids[-1]}
    if sampling.stop:
        # every token that shows has a byte at least, so the tail holds any match that ends with the new token
        tail = decode(output_ids[-(max(len(string.encode()) for string in sampling.stop) + 4) :], sampling)
        for string in sampling.stop:
            if string in tail:
                return {"type": "stop", "matched": string}
    return None


def shown_text(request: Request, output_ids: Sequence[int], decode: Decode) -> str:
    """The response's text without what ended it, unless no_stop_trim keeps it."""
    sampling, reason = request.sampling, request.finish_reason
    matched = reason.get("matched") if reason is not None and not sampling.no_stop_trim else None
    if isinstance(matched, int):
        return decode(output_ids[:-1], sampling)
    text = decode(output_ids, sampling)
    return text[: text.find(matched)] if isinstance(matched, str) and matched in text else text
