"""What must hold for every generator; the engine is a fake one that answers, cuts short, aborts or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from copy import deepcopy
from typing import Any, Final

from slimrl.errors import EngineError
from slimrl.rollout.produce import generated
from slimrl.testing.fake_engine import FakeEngine
from slimrl.testing.finding import Check, Word, failure, ok, warning
from slimrl.testing.samples import make_sample
from slimrl.types import Completion, Sample, SamplingParams, Status

Generate = Callable[[Sample, SamplingParams, Any], Coroutine[Any, Any, Any]]
"""Any: an EngineClient of ours, and the sample or a fan-out of it."""

SAMPLING: Final = SamplingParams(max_new_tokens=24, sampling_seed=7)
PER_TOKEN: Final = ("tokens", "log_probs", "weight_versions", "loss_mask")
DEADLINE_S: Final = 20.0


def _pending(sample_id: int = 0) -> Sample:
    return make_sample("", "7", status=Status.PENDING, sample_id=sample_id)


def _run(generate: Generate, sample: Sample, engine: FakeEngine) -> list[Sample]:
    """The samples that it made of one; what the generator raises comes through, as do more than a few seconds."""

    async def go() -> object:
        async with asyncio.timeout(DEADLINE_S):
            return await generate(sample, SAMPLING, engine)

    return generated(sample, asyncio.run(go()))


def _uneven(samples: Sequence[Sample]) -> str | None:
    for sample in samples:
        lengths = {name: len(getattr(sample, name)) for name in PER_TOKEN}
        if len(set(lengths.values())) > 1:
            return (
                f"the sample has {', '.join(f'{count} {name}' for name, count in lengths.items())}; use sample.append"
            )
    return None


def _statuses(samples: Sequence[Sample]) -> str:
    return ", ".join(dict.fromkeys(sample.status for sample in samples))


def fills_together(generate: Generate) -> Word:
    """Tokens, log-probs, versions and mask are of one length, and there is something to train on."""
    for script in (None, "The answer is 7."):
        samples = _run(generate, _pending(), FakeEngine(script))
        if uneven := _uneven(samples):
            return failure(uneven)
        if not any(sum(sample.loss_mask) for sample in samples):
            return failure("after an answer the sample has no token that is trained on")
        if any(value > 0 for sample in samples for value in sample.log_probs):
            return failure("a log-prob is above 0")
    return ok()


def keeps_the_engines_tokens(generate: Generate) -> Word:
    """A trained token is one the engine chose, with the log-prob and version it said."""
    said = set[tuple[int, float, int]]()

    class Listening(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Completion:  # Any: as FakeEngine.generate
            completion = await super().generate(*args, **kwargs)
            said.update(zip(completion.tokens, completion.log_probs, completion.weight_versions, strict=True))
            return completion

    foreign = 0
    for sample in _run(generate, _pending(), Listening(seed=3)):
        columns = zip(sample.tokens, sample.log_probs, sample.weight_versions, sample.loss_mask, strict=True)
        foreign += sum(
            mask > 0 and (token, log_prob, version) not in said for token, log_prob, version, mask in columns
        )
    if foreign:
        return failure(
            f"{foreign} tokens are trained on that the engine did not choose, or not with that log-prob; "
            f"append what is yours with trainable=False"
        )
    return ok()


def says_how_it_ended(generate: Generate) -> Word:
    """COMPLETED when the model ended it, TRUNCATED when its length did."""
    done = _run(generate, _pending(), FakeEngine("The answer is 7."))
    cut = _run(generate, _pending(), FakeEngine("7 " * 500))
    if all(sample.status is not Status.COMPLETED for sample in done):
        return warning(f"an answer that ended by itself left the status {_statuses(done)}")
    if all(sample.status is not Status.TRUNCATED for sample in cut):
        return warning(f"an answer of 1,000 characters with 24 new tokens allowed left the status {_statuses(cut)}")
    return ok()


def keeps_to_the_budget(generate: Generate) -> Word:
    """max_new_tokens bounds what the model writes in one response; all siblings together should keep to it too."""
    written = [sum(sample.loss_mask) for sample in _run(generate, _pending(), FakeEngine("7 " * 500))]
    if max(written) > SAMPLING.max_new_tokens:
        return failure(f"the model wrote {max(written)} tokens, max_new_tokens is {SAMPLING.max_new_tokens}")
    if sum(written) > SAMPLING.max_new_tokens:
        return warning(
            f"the model wrote {sum(written)} tokens in {len(written)} siblings, max_new_tokens is "
            f"{SAMPLING.max_new_tokens}"
        )
    return ok(f"{sum(written)} of {SAMPLING.max_new_tokens} tokens")


def an_engine_error_fails_the_sample(generate: Generate) -> Word:
    """An error goes up or makes the sample FAILED with a reason; it never looks like an answer."""
    sample = _pending()
    try:
        samples = _run(generate, sample, FakeEngine(lambda ids, sampling: EngineError("the engine is gone")))
    except EngineError:
        return failure(uneven) if (uneven := _uneven([sample])) else ok("it lets the error go up")
    ended = [one for one in samples if one.status in (Status.FAILED, Status.ABORTED)]
    if not ended:
        return failure(f"the engine failed and the sample is {_statuses(samples)}; let EngineError go up")
    return ok() if all(one.reason for one in ended) else warning(f"the sample is {_statuses(ended)} without a reason")


def an_abort_keeps_what_there_is(generate: Generate) -> Word:
    """The engine aborts requests when enough groups are there; a partial sample may go on later."""
    engine = FakeEngine()

    def abort(ids: Any, sampling: SamplingParams) -> Completion:  # Any: token ids
        return engine.completion(ids, "The ans", sampling, "abort")

    samples = _run(generate, _pending(), FakeEngine(abort))
    if uneven := _uneven(samples):
        return failure(uneven)
    if all(sample.status is not Status.ABORTED for sample in samples):
        return failure(f"the engine aborted the request and the sample is {_statuses(samples)}, not aborted")
    if not any(sample.tokens for sample in samples):
        return warning("the tokens that an aborted request had are lost")
    return ok()


def goes_on_from_a_part(generate: Generate) -> Word:
    """A sample that has tokens keeps them: the answer goes on behind them."""
    sample, engine = _pending(), FakeEngine("wer is 7.")
    sample.append(list(b"The ans"), [-0.5] * 7, [1] * 7, text="The ans")
    before = deepcopy(sample)
    samples = _run(generate, sample, engine)
    if uneven := _uneven(samples):
        return failure(uneven)
    if any(getattr(samples[0], name)[:7] != getattr(before, name) for name in PER_TOKEN):
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
    first = _run(generate, sample, FakeEngine("The answer is 7."))[0]
    names = ("group_id", "sample_id", "rollout_id", "prompt", "prompt_tokens", "label", "seed")
    changed = [name for name in names if getattr(first, name) != getattr(before, name)]
    return failure(f"it changed sample.{', sample.'.join(changed)}") if changed else ok()


def siblings_stand_alone(generate: Generate) -> Word:
    """Each sample of a fan-out is scored, stored and trained on by itself."""
    samples = _run(generate, _pending(), FakeEngine("The answer is 7."))
    if len(samples) == 1:
        return ok("it returns one sample")
    if not all(sample.prompt_tokens for sample in samples):
        return failure("a sibling has no prompt tokens")
    if Status.PENDING in [sample.status for sample in samples]:
        return failure("a sibling has the status pending; say how each ended")
    for name in (*PER_TOKEN, "metadata"):
        if len({id(getattr(sample, name)) for sample in samples}) < len(samples):
            return failure(f"siblings share one object as their {name}; what is added to one is added to all")
    if any(sample.label != samples[0].label for sample in samples):
        return warning("siblings have other labels than the first, which is what a reward compares with")
    return ok(f"{len(samples)} siblings")


def overlapping_samples(generate: Generate) -> Word:
    """All samples of a rollout are generated at once on one event loop."""

    async def one(sample: Sample) -> list[list[int]]:
        found = generated(sample, await generate(sample, SAMPLING, FakeEngine(seed=sample.sample_id)))
        return [each.tokens for each in found]

    async def at_once() -> list[list[list[int]]]:
        return list(await asyncio.gather(*(one(_pending(place)) for place in range(8))))

    together = asyncio.run(at_once())
    alone = [asyncio.run(one(_pending(place))) for place in range(8)]
    differing = sum(a != b for a, b in zip(together, alone, strict=True))
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
    Check("siblings", "if it returns several samples, each stands by itself", siblings_stand_alone),
    Check("overlapping", "samples generated at once do not disturb each other", overlapping_samples),
    Check("cancel", "it can be cancelled while it waits", can_be_cancelled),
)
