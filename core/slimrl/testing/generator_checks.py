"""What must hold for every generator; the engine is a fake one that answers, cuts short, aborts or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from copy import deepcopy
from typing import Any, Final

from slimrl.errors import EngineError
from slimrl.testing.fake_engine import FakeEngine, Script
from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.testing.samples import make_sample
from slimrl.types import Completion, Sample, SamplingParams, Status

Generate = Callable[[Sample, SamplingParams, Any], Coroutine[Any, Any, Sample]]  # Any: an EngineClient of ours

SAMPLING: Final = SamplingParams(max_new_tokens=24, sampling_seed=7)
PER_TOKEN: Final = ("tokens", "log_probs", "weight_versions", "loss_mask")
DEADLINE_S: Final = 20.0


def _pending(sample_id: int = 0) -> Sample:
    return make_sample("", "7", status=Status.PENDING, sample_id=sample_id)


def _run(generate: Generate, sample: Sample, script: Script | None, sampling: SamplingParams = SAMPLING) -> FakeEngine:
    """Fill a sample; what the generator raises comes through, as do more than a few seconds."""
    engine = FakeEngine(script)

    async def go() -> Sample:
        async with asyncio.timeout(DEADLINE_S):
            return await generate(sample, sampling, engine)

    returned = asyncio.run(go())
    if returned is not sample:
        raise TypeError(f"the generator returned {type(returned).__name__}, not the sample it was given")
    return engine


def _uneven(sample: Sample) -> str | None:
    lengths = {name: len(getattr(sample, name)) for name in PER_TOKEN}
    if len(set(lengths.values())) == 1:
        return None
    return f"the sample has {', '.join(f'{count} {name}' for name, count in lengths.items())}; use sample.append"


def fills_together(generate: Generate) -> Word:
    """Tokens, log-probs, versions and mask are of one length, and there is something to train on."""
    for script in (None, "The answer is 7."):
        sample = _pending()
        _run(generate, sample, script)
        if uneven := _uneven(sample):
            return failure(uneven)
        if not sample.tokens or not sum(sample.loss_mask):
            return failure("after an answer the sample has no token that is trained on")
        if any(value > 0 for value in sample.log_probs):
            return failure("a log-prob is above 0")
    return ok()


def keeps_the_engines_tokens(generate: Generate) -> Word:
    """A trained token is one the engine chose, with the log-prob and version it said."""
    sample, said = _pending(), set[tuple[int, float, int]]()

    class Listening(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:  # Any: as FakeEngine.generate
            completion = await super().generate(*args, **kwargs)
            said.update(zip(completion.tokens, completion.log_probs, completion.weight_versions, strict=True))
            return completion

    asyncio.run(generate(sample, SAMPLING, Listening(seed=3)))
    columns = zip(sample.tokens, sample.log_probs, sample.weight_versions, sample.loss_mask, strict=True)
    foreign = [token for token, log_prob, version, mask in columns if mask and (token, log_prob, version) not in said]
    if foreign:
        return failure(
            f"{len(foreign)} tokens are trained on that the engine did not choose, or not with that log-prob; "
            f"append what is yours with trainable=False"
        )
    return ok()


def says_how_it_ended(generate: Generate) -> Word:
    """COMPLETED when the model ended it, TRUNCATED when its length did."""
    done, cut = _pending(), _pending()
    _run(generate, done, "The answer is 7.")
    _run(generate, cut, "7 " * 500)
    if done.status is not Status.COMPLETED:
        return warning(f"an answer that ended by itself left the status {done.status}")
    if cut.status is not Status.TRUNCATED:
        return warning(f"an answer of 1,000 characters with 24 new tokens allowed left the status {cut.status}")
    return ok()


def keeps_to_the_budget(generate: Generate) -> Word:
    """max_new_tokens bounds what the model writes in one response."""
    sample = _pending()
    _run(generate, sample, "7 " * 500)
    written = sum(sample.loss_mask)
    if written > SAMPLING.max_new_tokens:
        return failure(f"the model wrote {written} tokens, max_new_tokens is {SAMPLING.max_new_tokens}")
    return ok(f"{written} of {SAMPLING.max_new_tokens} tokens")


def an_engine_error_fails_the_sample(generate: Generate) -> Word:
    """An error goes up or makes the sample FAILED with a reason; it never looks like an answer."""
    sample = _pending()
    try:
        _run(generate, sample, lambda ids, sampling: EngineError("the engine is gone"))
    except EngineError:
        return failure(uneven) if (uneven := _uneven(sample)) else ok("it lets the error go up")
    if sample.status not in (Status.FAILED, Status.ABORTED):
        return failure(f"the engine failed and the sample is {sample.status}; let EngineError go up")
    return ok() if sample.reason else warning(f"the sample is {sample.status} without a reason")


def an_abort_keeps_what_there_is(generate: Generate) -> Word:
    """The engine aborts requests when enough groups are there; a partial sample may go on later."""
    sample = _pending()
    engine = FakeEngine()

    def abort(ids: Any, sampling: SamplingParams) -> Completion:  # Any: token ids
        return engine.completion(ids, "The ans", sampling, "abort")

    _run(generate, sample, abort)
    if uneven := _uneven(sample):
        return failure(uneven)
    if sample.status is not Status.ABORTED:
        return failure(f"the engine aborted the request and the sample is {sample.status}, not aborted")
    return ok() if sample.tokens else warning("the tokens that an aborted request had are lost")


def goes_on_from_a_part(generate: Generate) -> Word:
    """A sample that has tokens keeps them: the answer goes on behind them."""
    sample = _pending()
    sample.append(list(b"The ans"), [-0.5] * 7, [1] * 7, text="The ans")
    before = deepcopy(sample)
    engine = _run(generate, sample, "wer is 7.")
    if uneven := _uneven(sample):
        return failure(uneven)
    if any(getattr(sample, name)[:7] != getattr(before, name) for name in PER_TOKEN):
        return failure("the tokens that the sample had are not its first tokens any more")
    if engine.requests and list(engine.requests[0].input_ids[: len(before.prompt_tokens) + 7]) != (
        before.prompt_tokens + before.tokens
    ):
        return warning("the engine was not asked to go on behind the tokens that the sample had")
    return ok()


def leaves_the_prompt(generate: Generate) -> Word:
    """Prompt, label and place are the data source's."""
    sample = _pending()
    before = deepcopy(sample)
    _run(generate, sample, "The answer is 7.")
    names = ("group_id", "sample_id", "rollout_id", "prompt", "prompt_tokens", "label", "seed")
    changed = [name for name in names if getattr(sample, name) != getattr(before, name)]
    return failure(f"it changed sample.{', sample.'.join(changed)}") if changed else ok()


def overlapping_samples(generate: Generate) -> Word:
    """All samples of a rollout are generated at once on one event loop."""

    async def one(sample: Sample) -> Sample:
        return await generate(sample, SAMPLING, FakeEngine(seed=sample.sample_id))

    async def at_once() -> list[Sample]:
        return list(await asyncio.gather(*(one(_pending(place)) for place in range(8))))

    together = asyncio.run(at_once())
    alone = [asyncio.run(one(_pending(place))) for place in range(8)]
    differing = sum(a.tokens != b.tokens for a, b in zip(together, alone, strict=True))
    return failure(f"{differing} of 8 samples differ when generated at once; keep no state") if differing else ok()


def can_be_cancelled(generate: Generate) -> Word:
    """A run that has enough cancels the rest."""

    class Silent(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:  # Any: as FakeEngine.generate
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits this long")

    async def go() -> bool:
        task = asyncio.ensure_future(generate(_pending(), SAMPLING, Silent()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        return task.cancelled()

    return ok() if asyncio.run(go()) else failure("it did not end when cancelled; let asyncio.CancelledError go up")


CHECKS: Final[tuple[Check[Generate], ...]] = (
    Check("together", "tokens, log-probs, versions and mask are appended together", fills_together),
    Check("engines_tokens", "what is trained on is what the engine chose", keeps_the_engines_tokens),
    Check("status", "the status says how the answer ended", says_how_it_ended),
    Check("budget", "max_new_tokens bounds the whole response", keeps_to_the_budget),
    Check("engine_error", "an engine's error never looks like an answer", an_engine_error_fails_the_sample),
    Check("abort", "an aborted request leaves an aborted sample with its tokens", an_abort_keeps_what_there_is),
    Check("partial", "a sample that has tokens goes on behind them", goes_on_from_a_part),
    Check("prompt", "prompt, label and place stay as they are", leaves_the_prompt),
    Check("overlapping", "samples generated at once do not disturb each other", overlapping_samples),
    Check("cancel", "it can be cancelled while it waits", can_be_cancelled),
)
