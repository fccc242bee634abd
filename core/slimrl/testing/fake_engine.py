"""An engine without a model: scripted or seeded answers, with log-probs that fit them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from slimrl.errors import EngineError
from slimrl.types import Completion, SamplingParams

END: Final = 0
"""The end token. Every other token is a byte of text."""
LETTERS: Final = (END, *b" 0123456789abcdefghijklmnopqrstuvwxyz")
"""What a seeded answer is made of."""

Answer = str | Completion | BaseException
Script = str | Sequence[Answer] | Callable[[Sequence[int], SamplingParams], Answer]


@dataclass(frozen=True)
class Request:
    """What the engine was asked once."""

    input_ids: tuple[int, ...]
    sampling: SamplingParams
    request_id: str | None = None

    @property
    def text(self) -> str:
        """The input as text."""
        return to_text(self.input_ids)


class FakeEngine:
    """Answers `generate` as an engine does; a token is a byte, and token 0 ends an answer.

    Without a script an answer is drawn from a distribution that depends on the tokens before and on the seed
    alone: the same request gives the same answer. A script is one answer for every request, a list with one answer
    a request, or a function of the request; an answer is a text, a Completion as it is, or an error to raise.
    The log-prob of a token after given tokens is `log_prob`, whoever chose the token.
    """

    def __init__(self, script: Script | None = None, *, seed: int = 0, weight_version: int = 1) -> None:
        self._script = script
        self._seed = seed
        self.weight_version = weight_version
        self.requests: list[Request] = []
        """Everything that was asked, in order."""

    async def generate(
        self, input_ids: Sequence[int], sampling: SamplingParams, *, request_id: str | None = None
    ) -> Completion:
        """The next answer; EngineError where the script has no more."""
        self.requests.append(Request(tuple(input_ids), sampling, request_id))
        answer = self._next_answer(input_ids, sampling)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Completion) else self._say(list(input_ids), answer, sampling)

    def log_prob(self, prefix: Sequence[int], token: int, temperature: float = 1.0) -> float:
        """Natural log of the chance of `token` after `prefix`."""
        if temperature == 0:
            return 0.0  # greedy: whatever was chosen was certain
        weights = [weight ** (1 / temperature) for weight in self._weights(prefix)]
        return math.log(weights[token] / sum(weights))

    def completion(
        self,
        input_ids: Sequence[int],
        text: str,
        sampling: SamplingParams,
        finish_reason: Literal["stop", "length", "abort"] = "stop",
    ) -> Completion:
        """What `text` is as this engine's answer, ended in the given way: for scripts."""
        tokens = list(text.encode()) + ([END] if finish_reason == "stop" else [])
        return self._complete(list(input_ids), tokens, text, sampling, finish_reason)

    def _next_answer(self, input_ids: Sequence[int], sampling: SamplingParams) -> Answer:
        script = self._script
        if script is None:
            return self._draw(list(input_ids), sampling)
        if isinstance(script, str):
            return script
        if callable(script):
            return script(input_ids, sampling)
        if len(self.requests) > len(script):
            raise EngineError(f"the script of FakeEngine has {len(script)} answers; this is one request more")
        return script[len(self.requests) - 1]

    def _say(self, prefix: list[int], text: str, sampling: SamplingParams) -> Completion:
        """A text as an answer: ended by a stop string, by the length, or by the end token."""
        cuts = [(at, at + len(stop)) for stop in sampling.stop if stop and (at := text.find(stop)) >= 0]
        if cuts:
            shown, cut = min(cuts)  # the stop string is among the tokens, not in the text
            tokens = list(text[:cut].encode())
            if len(tokens) <= sampling.max_new_tokens:
                return self._complete(prefix, tokens, text[:shown], sampling, "stop")
        tokens = [*text.encode(), END]
        if len(tokens) <= sampling.max_new_tokens:
            return self._complete(prefix, tokens, text, sampling, "stop")
        tokens = tokens[: sampling.max_new_tokens]
        return self._complete(prefix, tokens, to_text(tokens), sampling, "length")

    def _draw(self, prefix: list[int], sampling: SamplingParams) -> Completion:
        chance = random.Random(f"{self._seed} {sampling.sampling_seed} {prefix}")
        tokens: list[int] = []
        while len(tokens) < sampling.max_new_tokens and END not in tokens[-1:]:
            weights = self._weights(prefix + tokens)
            if sampling.temperature == 0:
                tokens.append(max(LETTERS, key=weights.__getitem__))
            else:
                odds = [weights[token] ** (1 / sampling.temperature) for token in LETTERS]
                tokens += chance.choices(LETTERS, odds)
        return self._complete(prefix, tokens, to_text(tokens), sampling, "stop" if END in tokens[-1:] else "length")

    def _complete(
        self,
        prefix: list[int],
        tokens: list[int],
        text: str,
        sampling: SamplingParams,
        finish_reason: Literal["stop", "length", "abort"],
    ) -> Completion:
        return Completion(
            tokens=tokens,
            log_probs=[
                self.log_prob(prefix + tokens[:place], token, sampling.temperature)
                for place, token in enumerate(tokens)
            ],
            weight_versions=[self.weight_version] * len(tokens),
            text=text,
            finish_reason=finish_reason,
            finish_message="aborted by the script" if finish_reason == "abort" else "",
            num_prompt_tokens=len(prefix),
        )

    def _weights(self, prefix: Sequence[int]) -> list[float]:
        """A positive weight for each byte, from the seed and the last tokens before it."""
        last = ",".join(map(str, prefix[-16:]))
        digest = hashlib.blake2b(f"{self._seed} {len(prefix)} {last}".encode(), digest_size=8).digest()
        chance = random.Random(digest)
        weights = [1e-6] * 256  # bytes that no seeded answer has: unlikely, and possible in a script
        for token in LETTERS:
            weights[token] = 0.05 + chance.random() ** 4
        return weights


def to_text(tokens: Sequence[int]) -> str:
    """The text of tokens, without the end token; a cut character becomes U+FFFD."""
    return bytes(token for token in tokens if 0 < token < 256).decode(errors="replace")
