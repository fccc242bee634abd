"""Tokens at most in a prompt, in a response and in both: what training or an evaluation set has, and who says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slimrl.config.eval import EvalConfig
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.rollout import RolloutConfig


@dataclass(frozen=True)
class Length:
    """One limit."""

    by: str
    """The flag that says it, or the evaluation set and its key."""
    tokens: int | None
    """None where nobody says it."""


@dataclass(frozen=True)
class Lengths:
    """The limits of one kind of sample."""

    prompt: Length
    response: Length
    context: Length
    """Of prompt and response together; None is as many as the model has positions."""

    @classmethod
    def of_training(cls, rollout: RolloutConfig) -> Lengths:
        """The rollout's."""
        return cls(
            Length("--rollout-max-prompt-len", rollout.rollout_max_prompt_len),
            Length("--rollout-max-response-len", rollout.rollout_max_response_len),
            Length("--rollout-max-context-len", rollout.rollout_max_context_len),
        )

    @classmethod
    def of_evaluation(cls, config: EvalConfig, rollout: RolloutConfig, own: EvalDataset | None = None) -> Lengths:
        """Those of an evaluation set, or of any that says nothing: its own, else evaluation's, else the rollout's."""
        lengths = cls.of_training(rollout)._under(
            Length("--eval-max-prompt-len", config.eval_max_prompt_len),
            Length("--eval-max-response-len", config.eval_max_response_len),
            Length("--eval-max-context-len", config.eval_max_context_len),
        )
        if own is None:
            return lengths
        return lengths._under(
            Length(f"evaluation set {own.name!r}: max_prompt_len", own.max_prompt_len),
            Length(f"evaluation set {own.name!r}: max_response_len", own.max_response_len),
            Length(f"evaluation set {own.name!r}: max_context_len", own.max_context_len),
        )

    def _under(self, prompt: Length, response: Length, context: Length) -> Lengths:
        """With these before its own, where they say something."""
        return Lengths(
            self.prompt if prompt.tokens is None else prompt,
            self.response if response.tokens is None else response,
            self.context if context.tokens is None else context,
        )

    def check(self, max_positions: int | None) -> Iterator[str]:
        """Which of them do not fit each other, or a model of so many positions."""
        prompt, response, context = self.prompt, self.response, self.context
        if context.tokens is None:
            asked = (prompt.tokens or 1) + (response.tokens or 0)
            if max_positions is not None and response.tokens is not None and asked > max_positions:
                beside = f" with {prompt.by} {prompt.tokens}" if prompt.tokens else ""
                yield (
                    f"{response.by} {response.tokens}{beside} is longer than the model's context of {max_positions} "
                    "tokens"
                )
        elif max_positions is not None and context.tokens > max_positions:
            yield f"{context.by} {context.tokens} is longer than the model's context of {max_positions} tokens"
        else:
            for part in (prompt, response):
                if part.tokens is not None and part.tokens >= context.tokens:
                    yield (
                        f"{part.by} {part.tokens} must be below {context.by} {context.tokens}, which is of prompt and "
                        "response together"
                    )
