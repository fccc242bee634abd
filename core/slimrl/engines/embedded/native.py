"""Runs the Llama family: prompts packed into one pass, rows of all requests decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from slimrl.engines.embedded.checkpoint import Checkpoint
from slimrl.engines.embedded.decode_attention import DecodeAttention
from slimrl.engines.embedded.decode_graph import DecodeGraph
from slimrl.engines.embedded.family import FamilyModel
from slimrl.engines.embedded.invariant import RowAttention, decode_in_blocks, logits_in_blocks
from slimrl.engines.embedded.kv import SlotShape, SlotStore, capacity_for
from slimrl.engines.embedded.packing import Pack, Packed, PromptIndex
from slimrl.engines.embedded.prefill_attention import PrefillAttention
from slimrl.engines.embedded.runner import Prompt, Row
from slimrl.engines.embedded.scoring import score
from slimrl.engines.embedded.shape import ModelShape, read_config, shape_of
from slimrl.engines.embedded.threads import ThreadChoice
from slimrl.errors import EngineError

STEADY_STEPS = 2
"""Steps with the same rows before one is recorded: where rows keep changing, recordings would be thrown away."""
FIRST_ROOM = {"cpu": 1, "cuda": 256}
"""Tokens that a row has room for at first: on a GPU it moves rarely, so that more steps are alike."""


class NativeRunner:
    """A `Runner` for models whose shape `shape_of` knows."""

    def __init__(
        self,
        model_path: Path,
        shape: ModelShape,
        dtype: torch.dtype,
        device: torch.device,
        *,
        chunk: int,
        deterministic: bool,
    ) -> None:
        self.model = FamilyModel(shape, dtype, device)
        self.weights = self.model.weights
        self.weights.load(Checkpoint(model_path))
        self.vocab_size = shape.vocab_size
        self.max_length = shape.max_length
        slot = SlotShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, dtype, device)
        self.bytes_per_token = slot.bytes_per_token
        self._slot = slot
        self._device = device
        self._chunk = chunk
        self._deterministic = deterministic
        self._lone_row = ThreadChoice()
        self._first_room = FIRST_ROOM[device.type]
        self._records = device.type == "cuda" and not deterministic
        self._has_recorded = False
        self.reset()

    def reset(self) -> None:
        """See `Runner`."""
        self._prompts: SlotStore[Prompt] = SlotStore(self._slot)
        self._rows: SlotStore[Row] = SlotStore(self._slot)
        self._live: dict[tuple[tuple[int, ...], int | None], Prompt] = {}
        """Prompts that a new request with the same context and scoring may share."""
        self._index = PromptIndex()
        """Prompts with a slot, from which others may copy their beginning."""
        self._incoming: list[Prompt] = []
        self._queue: list[Prompt] = []
        """Prompts being computed, next first; those before any of `_incoming`."""
        self._decode: DecodeAttention | RowAttention | None = None
        self._generation = (-1, -1)
        self._graph: DecodeGraph | None = None
        self._num_steady = 0
        """Steps since rows or prompts have changed."""

    def open(self, context: tuple[int, ...], score_from: int | None) -> Prompt:
        """See `Runner`; requests with the same prompt share it while any of them lives."""
        found = self._live.get((context, score_from))
        if found is None:
            found = self._live[context, score_from] = Prompt(context, score_from)
            self._incoming.append(found)
        found.num_users += 1
        return found

    def has_pending_prefill(self) -> bool:
        """See `Runner`."""
        return bool(self._queue or self._incoming)

    def prefill(self) -> list[Prompt]:
        """See `Runner`; computes at most a chunk of tokens."""
        if not self._queue:
            # neighbours in this order share most, and each finds its donor computed or in the pass
            self._queue = sorted(self._incoming, key=lambda prompt: prompt.context)
            self._incoming = []
        pack = self._pack_one() if self._deterministic else self._pack()
        with torch.inference_mode():
            tokens = torch.tensor(pack.tokens, device=self._device)
            positions = torch.tensor(pack.positions, device=self._device)
            hidden = self.model.forward(
                tokens, positions, PrefillAttention(pack, self._prompts, self.model.shape.windows)
            )
            ready = []
            for part in pack.parts:
                prompt = part.prompt
                self._score(part, hidden)
                prompt.num_done = part.end
                if prompt.num_done == len(prompt.context):
                    ready.append((prompt, part.nodes[-1]))
            if self._deterministic:
                for prompt, node in ready:
                    prompt.logits = self.model.logits(hidden[node : node + 1])[0]
            elif ready:
                logits = self.model.logits(hidden[[node for _, node in ready]])
                for place, (prompt, _) in enumerate(ready):
                    prompt.logits = logits[place]
        done = {id(prompt) for prompt, _ in ready}
        self._queue = [prompt for prompt in self._queue if id(prompt) not in done]
        return [prompt for prompt, _ in ready]

    def start(self, prompt: Prompt, token: int) -> Row:
        """See `Runner`."""
        prompt.num_users += 1
        row = Row(prompt, token)
        self._rows.add(row, self._first_room)
        return row

    def fork(self, row: Row, token: int) -> Row:
        """See `Runner`; what the row has seen is copied."""
        twin = self.start(row.prompt, token)
        if row.length >= twin.capacity:
            self._rows.grow(twin, row.length)
        self._rows.copy(row, twin, row.length)
        twin.length = row.length
        return twin

    def decode(self) -> tuple[Sequence[Row], torch.Tensor]:
        """See `Runner`."""
        for pool in self._rows.pools():
            for row in reversed(pool.owners[:]):
                if row.length == row.capacity:
                    self._rows.grow(row, row.length)
        generation = (self._prompts.generation, self._rows.generation)
        with torch.inference_mode():
            if self._decode is None or generation != self._generation:
                kind = RowAttention if self._deterministic else DecodeAttention
                self._decode = kind(self._prompts, self._rows, self.model.shape.windows)
                self._generation = generation
                self._graph, self._num_steady = None, 0
            rows = self._decode.rows
            self._num_steady += 1
            if self._records and self._num_steady > STEADY_STEPS:
                if self._graph is None:
                    is_checked = not self._has_recorded
                    self._graph = DecodeGraph(self.model, self._prompts, self._rows, is_checked=is_checked)
                logits = self._graph.decode()
                self._has_recorded |= self._graph.is_recorded
                self._records = not (self._device.type == "cuda" and self._graph.has_failed)
                for row in rows:
                    row.length += 1
                return rows, logits
            positions = self._decode.step()
            tokens = torch.tensor([row.token for row in rows], device=self._device)
            if isinstance(self._decode, RowAttention):
                hidden = decode_in_blocks(self.model, tokens, positions, self._decode)
                logits = logits_in_blocks(self.model, hidden)
            else:
                is_alone = len(rows) == 1 and self._device.type == "cpu"
                with self._lone_row.step() if is_alone else nullcontext():
                    logits = self.model.logits(self.model.forward(tokens, positions, self._decode))
        for row in rows:
            row.length += 1
        return rows, logits

    def close_row(self, row: Row) -> None:
        """See `Runner`."""
        self._rows.remove(row)
        self.close_prompt(row.prompt)

    def close_prompt(self, prompt: Prompt) -> None:
        """See `Runner`."""
        prompt.num_users -= 1
        if prompt.num_users:
            return
        self._index.discard(prompt)
        if self._live.get((prompt.context, prompt.score_from)) is prompt:
            del self._live[prompt.context, prompt.score_from]
        self._incoming = [other for other in self._incoming if other is not prompt]
        self._queue = [other for other in self._queue if other is not prompt]
        if prompt.slot >= 0:
            self._prompts.remove(prompt)
            prompt.slot = -1

    def tokens_held(self) -> int:
        """See `Runner`."""
        asked = sum(capacity_for(len(prompt.context)) for prompt in self._queue + self._incoming if prompt.slot < 0)
        return self._prompts.tokens_held + self._rows.tokens_held + asked

    def tokens_needed(self, num_prompt: int, num_new: int) -> int:
        """See `Runner`."""
        return capacity_for(num_prompt) + capacity_for(max(self._first_room, num_new))

    def forget(self) -> None:
        """See `Runner`; rows keep the prompts they have."""
        self._index.clear()
        self._live.clear()

    def load(self, model_path: Path) -> None:
        """See `Runner`."""
        if (model_path / "config.json").exists() and shape_of(read_config(model_path)) != self.model.shape:
            raise EngineError(f"{model_path}/config.json describes another model than the one that is served")
        self.weights.load(Checkpoint(model_path))

    def _pack(self) -> Pack:
        """The next chunk of the queue, with what prompts share computed once."""
        pack = Pack()
        packed: dict[int, Packed] = {}
        for prompt in self._queue:
            room = self._chunk - len(pack.tokens)
            if room <= 0:
                break
            shared: list[int] = []
            if prompt.slot < 0:
                self._prompts.add(prompt, len(prompt.context))
                shared = self._take_over(prompt, packed)
            end = min(len(prompt.context), prompt.num_done + len(shared) + room)
            packed[id(prompt)] = pack.append(prompt, shared, end)
        return pack

    def _pack_one(self) -> Pack:
        """The next chunk of one prompt, cut where it would be cut if it were alone."""
        pack = Pack()
        prompt = self._queue[0]
        if prompt.slot < 0:
            self._prompts.add(prompt, len(prompt.context))
        pack.append(prompt, [], min(len(prompt.context), prompt.num_done + self._chunk))
        return pack

    def _take_over(self, prompt: Prompt, packed: dict[int, Packed]) -> list[int]:
        """Copy what another prompt has stored of this one's beginning; returns rows of the pass with more of it."""
        donor, length = self._index.nearest(prompt.context)
        self._index.add(prompt)
        if donor is None:
            return []
        part = packed.get(id(donor))
        # the last token's logits are needed, and those before every token to be scored
        length = min(length, len(prompt.context) - 1, prompt.first_scored - 1, part.end if part else donor.num_done)
        prompt.num_cached = length
        prompt.num_done = min(length, donor.num_done)
        self._prompts.copy(donor, prompt, prompt.num_done)
        return part.nodes[: max(0, length - donor.num_done)] if part else []

    def _score(self, part: Packed, hidden: torch.Tensor) -> None:
        """Log-probs of the prompt tokens that this pass's own rows predict."""
        prompt = part.prompt
        first = max(prompt.first_scored, part.own_start + 1)
        last = min(part.end, len(prompt.context) - 1)  # the last token predicts what is drawn
        if prompt.score_from is None or first > last:
            return
        rows = hidden[part.first_own + first - 1 - part.own_start : part.first_own + last - part.own_start]
        targets = torch.tensor(prompt.context[first : last + 1], device=self._device)
        chosen, top, ids = score(rows, targets, self.model.logits)
        prompt.input_log_probs.append(chosen)
        prompt.input_top.append((top, ids))
