"""One trajectory's requests: each is generated from the tokens that are there, and what was sent is recorded."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimrl.endpoint.fault import Fault
from slimrl.endpoint.request import ChatRequest
from slimrl.endpoint.segment import Mark, Segment, new_segment
from slimrl.endpoint.template import ChatTemplate
from slimrl.endpoint.tool_calls import ToolCall, split_tool_calls
from slimrl.endpoint.turn import next_reply
from slimrl.errors import EngineError
from slimrl.protocols import EngineClient
from slimrl.types import Completion, Sample, SamplingParams


@dataclass(frozen=True)
class Answer:
    """One reply, generated and not yet recorded."""

    request: ChatRequest
    completion: Completion
    input_ids: list[int]
    text: str
    """What the client sees: without stop text and tool calls."""
    calls: tuple[ToolCall, ...]
    call_ids: tuple[str, ...]
    is_trainable: bool
    base: Segment | None
    """The segment that this goes on, as it was at `mark`, with `between` behind it."""
    mark: Mark | None
    between: tuple[list[int], str]


class Session:
    """The requests of one trajectory, which is whoever holds its key.

    A request whose messages continue an earlier reply reuses that conversation's token ids as they are; any other
    begins a segment of its own, of which its whole prompt is the prompt. `max_new_tokens` of the sampling bounds
    what the model writes in all replies together, `max_context_len` each conversation.
    """

    def __init__(
        self, engine: EngineClient, template: ChatTemplate, sampling: SamplingParams, *, own_sampling: bool = False
    ) -> None:
        self.key = f"sk-{secrets.token_urlsafe(24)}"
        self.segments: list[Segment] = []
        self.over = asyncio.Event()
        """Set when nothing more will be answered because the engine aborted a request."""
        self.abort_reason = ""
        self.engine_error: EngineError | None = None
        """The engine's last error, where no reply was recorded after it."""
        self.is_spent = False
        """Whether a request was refused because the model may write no more, and none was answered after it."""
        self._engine = engine
        self._template = template
        self._sampling = sampling
        self._own_sampling = own_sampling
        self._written = 0
        self._asked = 0

    async def answer(self, request: ChatRequest) -> Answer:
        """Generate the reply to a request; Fault where there is none."""
        if self.over.is_set():
            raise _ended(self.abort_reason)
        base, mark, between, input_ids = self._input(request)
        sampling, is_trainable = self._sampling_of(request, len(input_ids))
        try:
            completion = await self._engine.generate(input_ids, sampling)
        except EngineError as error:
            self.engine_error = error
            raise Fault(str(error), status=502, kind="server_error", code="engine_error") from error
        if completion.finish_reason == "abort":
            self.abort_reason = completion.finish_message or "the engine aborted a request"
            self._record(request, completion, input_ids, (base, mark, between), {}, is_trainable)
            self.over.set()
            raise _ended(self.abort_reason)
        text = _without_stop(completion, sampling.stop)
        shown, calls = split_tool_calls(text) if request.calls_tools else (text, [])
        return Answer(
            request=request,
            completion=completion,
            input_ids=input_ids,
            text=shown,
            calls=tuple(calls),
            call_ids=tuple(f"call_{secrets.token_hex(12)}" for _ in calls),
            is_trainable=is_trainable,
            base=base,
            mark=mark,
            between=between,
        )

    def record(self, answer: Answer) -> None:
        """Keep a reply that its client has got; one that nobody got is not a part of the trajectory."""
        reply: dict[str, Any] = {"content": answer.text}
        if answer.calls:
            reply["tool_calls"] = [
                {"type": "function", "id": name, "function": {"name": call.name, "arguments": _object(call)}}
                for name, call in zip(answer.call_ids, answer.calls, strict=True)
            ]
        place = (answer.base, answer.mark, answer.between)
        self._record(answer.request, answer.completion, answer.input_ids, place, reply, answer.is_trainable)
        self.engine_error = None
        self.is_spent = self.is_spent and self._written >= self._sampling.max_new_tokens

    def samples(self) -> list[Sample]:
        """The segments' samples without their places in the run, longest first; none where nothing was recorded."""
        return [segment.sample for segment in self.longest_first()]

    def longest_first(self) -> list[Segment]:
        """The segments, those with the most trained tokens first."""
        return sorted(self.segments, key=lambda segment: -sum(segment.sample.loss_mask))

    def token_text(self, token: int) -> str:
        """One token as text."""
        return self._template.token_text(token)

    def _input(self, request: ChatRequest) -> tuple[Segment | None, Mark | None, tuple[list[int], str], list[int]]:
        """Where a request goes on, what is new in it, and all token ids."""
        best: tuple[Segment, Mark] | None = None
        for segment in self.segments:
            mark = segment.continued_by(request.messages, request.tools)
            if mark is not None and (best is None or mark.messages > best[1].messages):
                best = segment, mark
        if best is not None:
            segment, mark = best
            earlier = segment.tokens_until(mark)
            between = self._template.tail(request.messages, mark.messages, request.tools, earlier[-1])
            if between is not None:
                return segment, mark, between, earlier + between[0]
        return None, None, ([], ""), self._template.render(request.messages, request.tools)

    def _sampling_of(self, request: ChatRequest, used: int) -> tuple[SamplingParams, bool]:
        """How the reply to an input of `used` tokens is sampled, and whether that is what the run trains."""
        params = next_reply(self._sampling, turn=self._asked, written=self._written, used=used)
        if params is None:
            self.is_spent = True
            raise Fault(self._why_spent(used), param="messages", code="context_length_exceeded")
        self._asked += 1
        most = min(params.max_new_tokens, request.max_tokens or params.max_new_tokens)
        params = replace(
            params,
            max_new_tokens=most,
            min_new_tokens=min(most, params.min_new_tokens),
            stop=(*params.stop, *request.stop),
        )
        if not self._own_sampling:
            return params, True
        own = replace(
            params,
            temperature=params.temperature if request.temperature is None else request.temperature,
            top_p=params.top_p if request.top_p is None else request.top_p,
            sampling_seed=params.sampling_seed if request.seed is None else request.seed,
        )
        return own, (own.temperature, own.top_p) == (params.temperature, params.top_p)

    def _why_spent(self, used: int) -> str:
        run = self._sampling
        if self._written >= run.max_new_tokens:
            said = f"the model has written the {run.max_new_tokens} tokens that one trajectory may have"
            return f"{said} (--rollout-max-response-len)"
        return f"the conversation has {used} tokens, its context is {run.max_context_len} (--rollout-max-context-len)"

    def _record(
        self,
        request: ChatRequest,
        completion: Completion,
        input_ids: Sequence[int],
        place: tuple[Segment | None, Mark | None, tuple[list[int], str]],
        reply: dict[str, Any],
        is_trainable: bool,
    ) -> None:
        base, mark, between = place
        if base is not None and mark is not None and base.marks[-1] is mark:
            base.add_between(request.messages[mark.messages :], *between)
        else:  # a new conversation, a branch, or a second reply at once behind the same one
            base = new_segment(request.messages, request.tools, input_ids)
            self.segments.append(base)
        base.add(completion, {"role": "assistant", "content": "", **reply}, trainable=is_trainable)
        self._written += len(completion.tokens)


def _ended(reason: str) -> Fault:
    return Fault(f"this trajectory has ended: {reason}", status=410, code="trajectory_ended")


def _object(call: ToolCall) -> Any:  # a JSON object, as templates take it
    return json.loads(call.arguments)


def _without_stop(completion: Completion, stops: Sequence[str]) -> str:
    """The text up to the stop text that ended it: the engine leaves it in, OpenAI's API does not."""
    places = [at for stop in stops if (at := completion.text.find(stop)) >= 0]
    return completion.text[: min(places)] if places and completion.finish_reason == "stop" else completion.text
