"""What a prompt's tokens must keep to, so that a model can answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimrl.config.hf_folder import HfFolder
from slimrl.config.lengths import Length, Lengths
from slimrl.data.prompts import LongPromptError
from slimrl.errors import DataError


@dataclass(frozen=True)
class PromptLimits:
    """How many tokens a prompt may have and which; None: any."""

    prompt: Length
    context_len: int | None = None
    """Of prompt and response together."""
    vocab_size: int | None = None
    """Token ids are below it."""

    @classmethod
    def of(cls, lengths: Lengths, model: HfFolder) -> PromptLimits:
        """Those of a configuration, within a model's context and vocabulary."""
        context_len = model.max_positions if lengths.context.tokens is None else lengths.context.tokens
        return cls(lengths.prompt, context_len, model.config.get("vocab_size"))

    @property
    def longest(self) -> int | None:
        """Tokens at most."""
        limits = [self.prompt.tokens, None if self.context_len is None else self.context_len - 1]
        return min((limit for limit in limits if limit is not None), default=None)

    def check(self, tokens: Sequence[int], where: str) -> None:
        """Raise LongPromptError for too many tokens, DataError for one outside of the vocabulary, with `where`."""
        if self.prompt.tokens is not None and len(tokens) > self.prompt.tokens:
            raise LongPromptError(
                f"{where}: the prompt has {len(tokens)} tokens; {self.prompt.by} allows {self.prompt.tokens}"
            )
        if self.context_len is not None and len(tokens) >= self.context_len:
            raise LongPromptError(
                f"{where}: the prompt has {len(tokens)} tokens, which leaves no room for a reply in the context of "
                f"{self.context_len}"
            )
        if self.vocab_size is not None and tokens and not 0 <= min(tokens) <= max(tokens) < self.vocab_size:
            outside = next(token for token in tokens if not 0 <= token < self.vocab_size)
            raise DataError(
                f"{where}: the prompt has the token id {outside}, the model's vocabulary has {self.vocab_size}; "
                "this tokenizer is of another model"
            )
