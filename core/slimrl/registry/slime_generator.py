"""slime's generators, `async (args, sample, sampling_params[, evaluation])`, as generators of ours."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from slimrl.config import CkptConfig, RolloutConfig
from slimrl.protocols import EngineClient, Generate, PluginOptions
from slimrl.registry.slime_arguments import SlimeArguments, router_of, set_values
from slimrl.registry.slime_sample import SlimeSample, flat
from slimrl.tokenizer import load_tokenizer
from slimrl.traits import for_evaluation
from slimrl.types import Prompt, Sample, SamplingParams


def bind(function: Callable[..., Any], options: PluginOptions, signature: inspect.Signature) -> Generate:
    """The generator, which sees slime's args with the engine's address; of a templated prompt it sees the text."""
    parameters = signature.parameters
    takes_evaluation = "evaluation" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    rollout = options[RolloutConfig]
    args = SlimeArguments(options)

    @cache
    def tokenizer() -> Any:  # transformers has no types
        folder = options[CkptConfig].hf_checkpoint
        assert folder is not None, "checked with the configuration"
        return load_tokenizer(folder)

    def shown_prompt(sample: Sample) -> Prompt:
        if not rollout.apply_chat_template:
            return sample.prompt
        text: str = tokenizer().decode(sample.prompt_tokens, skip_special_tokens=False)
        return text

    def of(evaluation: bool) -> Generate:
        more = {"evaluation": evaluation} if takes_evaluation else {}

        async def generate(sample: Sample, sampling: SamplingParams, engine: EngineClient, /) -> Sample | list[Sample]:
            set_values(args, **router_of(engine))
            version = await _weight_version(engine)
            view = SlimeSample(sample, prompt=shown_prompt(sample))
            returned = await function(args, view, sampling_dict(sampling), **more)
            found = flat(returned)
            if not found or not all(isinstance(one, SlimeSample) for one in found):
                raise TypeError(
                    f"the generator returned {type(returned).__name__}; it returns the sample it was given, or a list "
                    "of copies of it"
                )
            written = [one.write_back(rollout.reward_key, version=version) for one in found]
            return written[0] if returned is view else written

        return generate

    return for_evaluation(of(False), of(True))


def sampling_dict(sampling: SamplingParams) -> dict[str, Any]:  # Any: JSON values
    """Sampling parameters as SGLang's HTTP API takes them; each call has a dictionary of its own to change."""
    fields: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "skip_special_tokens": sampling.skip_special_tokens,
        "no_stop_trim": True,
        "spaces_between_special_tokens": False,
    }
    if sampling.min_new_tokens:
        fields["min_new_tokens"] = sampling.min_new_tokens
    if sampling.sampling_seed is not None:
        fields["sampling_seed"] = sampling.sampling_seed
    return fields


async def _weight_version(engine: EngineClient) -> int | None:
    """The version that the engine serves, before anything is asked of it; None where it does not tell."""
    ask: Callable[[], Awaitable[str]] | None = getattr(engine, "weight_version", None)
    if not callable(ask):
        return None
    found = await ask()
    return int(found) if str(found).isdigit() else None
