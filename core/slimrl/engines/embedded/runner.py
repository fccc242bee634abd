"""The seam between the scheduler and a model: prompts are computed once, rows decode from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from slimrl.engines.embedded.weights import NamedWeights


class Prompt:
    """One context (prompt, and after a retraction what was generated) that any number of rows continue."""

    def __init__(self, context: tuple[int, ...], score_from: int | None) -> None:
        self.context = context
        self.score_from = score_from
        """First position whose log-prob is wanted; None for none."""
        self.slot = -1
        self.capacity = 0
        self.num_done = 0
        """Leading tokens whose keys and values are stored."""
        self.num_cached = 0
        """Leading tokens that were not computed for this prompt."""
        self.num_users = 0
        self.logits: torch.Tensor | None = None
        """Float32 [vocabulary] after the last token, once all of it is computed."""
        self.input_log_probs: list[torch.Tensor] = []
        """Pieces of [positions] from max(score_from, 1) on: log-prob of each prompt token."""
        self.input_top: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Pieces of the likeliest tokens there: log-probs and ids, both [positions, MAX_TOP]."""

    @property
    def first_scored(self) -> int:
        """Position of the first token that is scored (the very first one has nothing before it)."""
        return len(self.context) if self.score_from is None else max(self.score_from, 1)


class Row:
    """One sequence being decoded; several requests share it until they draw different tokens."""

    def __init__(self, prompt: Prompt, token: int) -> None:
        self.prompt = prompt
        self.token = token
        """The latest token: drawn, not yet fed to the model."""
        self.length = 0
        """Tokens after the prompt that the model has seen."""
        self.slot = -1
        self.capacity = 0


class Runner(Protocol):
    """A model that prefills prompts and decodes rows; the scheduler's thread is its only caller."""

    weights: NamedWeights
    vocab_size: int
    max_length: int
    bytes_per_token: int
    """What one token's keys and values take."""

    def open(self, context: tuple[int, ...], score_from: int | None) -> Prompt:
        """Ask for a prompt, counted as one user; it may be one that is computed already."""
        ...

    def prefill(self) -> list[Prompt]:
        """Compute a bounded share of the prompts asked for; returns those that are now ready."""
        ...

    def has_pending_prefill(self) -> bool:
        """Whether `prefill` has something to do."""
        ...

    def start(self, prompt: Prompt, token: int) -> Row:
        """Begin a row that continues a ready prompt with a token."""
        ...

    def fork(self, row: Row, token: int) -> Row:
        """A second row with the same past, whose next token is another one."""
        ...

    def decode(self) -> tuple[Sequence[Row], torch.Tensor]:
        """Feed every row its token; returns the rows and float32 logits [rows, vocabulary] in their order."""
        ...

    def close_row(self, row: Row) -> None:
        """Forget a row."""
        ...

    def close_prompt(self, prompt: Prompt) -> None:
        """One user less; the last one's leaving frees the prompt, also one that is not ready yet."""
        ...

    def tokens_held(self) -> int:
        """Tokens whose keys and values have room now."""
        ...

    def tokens_needed(self, num_prompt: int, num_new: int) -> int:
        """Room that one request takes at most."""
        ...

    def forget(self) -> None:
        """Offer no stored prompt to new requests: the weights have changed."""
        ...

    def reset(self) -> None:
        """Drop all prompts and rows, whatever state they are in."""
        ...

    def load(self, model_path: Path) -> None:
        """Take the weights of a checkpoint folder; raises EngineError, the old ones untouched, when they do not fit."""
        ...
