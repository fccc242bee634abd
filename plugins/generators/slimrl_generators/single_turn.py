"""Single turn: one request per sample, going on from the tokens that a partial rollout left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from slimrl import (
    EngineClient,
    Factory,
    Generate,
    PluginOptions,
    Sample,
    SamplingParams,
    Status,
    continues_samples,
    hookimpl,
)

STATUS: Final = {"stop": Status.COMPLETED, "length": Status.TRUNCATED, "abort": Status.ABORTED}


@continues_samples
async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient) -> Sample:
    """Append the engine's response; `max_new_tokens` counts the whole response, earlier tokens included."""
    budget = sampling.max_new_tokens - len(sample.tokens)
    if budget <= 0:
        sample.status = Status.TRUNCATED
        return sample
    completion = await engine.generate(sample.prompt_tokens + sample.tokens, replace(sampling, max_new_tokens=budget))
    sample.append(completion.tokens, completion.log_probs, completion.weight_versions, text=completion.text)
    sample.status = STATUS[completion.finish_reason]
    sample.reason = completion.finish_message if sample.status is Status.ABORTED else ""
    return sample


def make(options: PluginOptions) -> Generate:
    """The generator; it has no options."""
    return generate


@hookimpl
def slimrl_offer_generators() -> Mapping[str, Factory[Generate]]:
    """Offers `single_turn`."""
    return {"single_turn": make}
