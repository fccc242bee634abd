"""Runs any other architecture through its transformers model: prompts that come together stay one batch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from slimrl.engines.embedded.runner import Prompt, Row
from slimrl.engines.embedded.scoring import score
from slimrl.engines.embedded.weights import NamedWeights, Whole
from slimrl.errors import EngineError, UsageError

FUSED_EXPERTS = ("qwen3_moe", "deepseek_v3")
"""Model types whose experts transformers joins to one tensor a layer; their checkpoints have them one by one."""


class Cohort:
    """A left-padded batch with one cache of the model's own kind."""

    def __init__(self, prompts: Sequence[Prompt], mask: torch.Tensor, cache: Any) -> None:
        self.prompts = list(prompts)
        self.mask = mask
        """[batch, tokens] 1 where a token is real."""
        self.cache = cache  # transformers' Cache, whatever class the model chose
        self.rows: list[Row] = []
        self.sources: list[int] = []
        """Line of the batch that each row continues; `compact` makes them the lines themselves."""

    @property
    def tokens_held(self) -> int:
        """Cached tokens of all lines, padding included."""
        return max(len(self.rows), 1) * self.mask.shape[1]

    def compact(self) -> None:
        """Make the batch exactly its rows, in their order."""
        if self.sources != list(range(len(self.mask))):
            lines = torch.tensor(self.sources, device=self.mask.device)
            self.cache.batch_select_indices(lines)
            self.mask = self.mask[lines]
            self.sources = list(range(len(self.rows)))


class FallbackRunner:
    """A `Runner` over AutoModelForCausalLM."""

    def __init__(
        self, model_path: Path, dtype: torch.dtype, device: torch.device, *, chunk: int, deterministic: bool
    ) -> None:
        self._dtype = dtype
        self._device = device
        self._chunk = chunk
        self._deterministic = deterministic
        self._model = self._read(model_path).to(device)
        if getattr(self._model, "_is_stateful", False):
            raise UsageError(f"{model_path}: recurrent models have no KV cache to batch; serve an attention model")
        self._forward_names = set(inspect.signature(self._model.forward).parameters)
        config = self._model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.max_length: int = getattr(config, "max_position_embeddings", None) or 2048
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.bytes_per_token = 2 * config.num_hidden_layers * num_kv_heads * head_dim * dtype.itemsize
        own = dict(self._model.named_parameters())
        name_of = {id(parameter): name for name, parameter in own.items()}
        every = self._model.named_parameters(remove_duplicate=False)
        aliases = {name: name_of[id(parameter)] for name, parameter in every if name not in own}
        weights = {name: Whole(tensor) for name, tensor in _checkpoint_tensors(self._model)}
        self.weights = NamedWeights(weights, aliases)
        self.reset()

    def reset(self) -> None:
        """See `Runner`."""
        self._incoming: list[Prompt] = []
        self._cohorts: list[Cohort] = []

    def open(self, context: tuple[int, ...], score_from: int | None) -> Prompt:
        """See `Runner`; only requests that come before the prompt is computed share it."""
        for prompt in self._incoming:
            if not self._deterministic and (prompt.context, prompt.score_from) == (context, score_from):
                prompt.num_users += 1
                return prompt
        prompt = Prompt(context, score_from)
        prompt.num_users = 1
        self._incoming.append(prompt)
        return prompt

    def has_pending_prefill(self) -> bool:
        """See `Runner`."""
        return bool(self._incoming)

    def prefill(self) -> list[Prompt]:
        """See `Runner`; prompts of about a chunk of tokens become a batch, scored ones are alone."""
        prompts = [self._incoming.pop(0)]
        while (
            self._incoming
            and not self._deterministic
            and prompts[0].score_from is None
            and self._incoming[0].score_from is None
            and (len(prompts) + 1) * max(len(p.context) for p in [*prompts, self._incoming[0]]) <= self._chunk
        ):
            prompts.append(self._incoming.pop(0))
        width = max(len(prompt.context) for prompt in prompts)
        tokens = torch.zeros((len(prompts), width), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for line, prompt in enumerate(prompts):
            tokens[line, width - len(prompt.context) :] = torch.tensor(prompt.context)
            mask[line, width - len(prompt.context) :] = 1
        is_scored = prompts[0].score_from is not None
        cohort = Cohort(prompts, mask.to(self._device), None)
        logits = self._forward(cohort, tokens.to(self._device), keep=0 if is_scored else 1)
        for line, prompt in enumerate(prompts):
            prompt.logits = logits[line, -1]
            prompt.num_done = len(prompt.context)
        if is_scored:
            _score(prompts[0], logits[0])
        self._cohorts.append(cohort)
        return prompts

    def start(self, prompt: Prompt, token: int) -> Row:
        """See `Runner`."""
        cohort = next(cohort for cohort in self._cohorts if any(other is prompt for other in cohort.prompts))
        prompt.num_users += 1
        row = Row(prompt, token)
        cohort.rows.append(row)
        cohort.sources.append(next(line for line, other in enumerate(cohort.prompts) if other is prompt))
        return row

    def fork(self, row: Row, token: int) -> Row:
        """See `Runner`."""
        cohort = self._cohort_of(row)
        row.prompt.num_users += 1
        twin = Row(row.prompt, token)
        twin.length = row.length
        if self._deterministic:
            other = Cohort((), cohort.mask, copy.deepcopy(cohort.cache))
            self._cohorts.append(other)
        else:
            other = cohort
        other.rows.append(twin)
        other.sources.append(cohort.sources[cohort.rows.index(row)])
        return twin

    def decode(self) -> tuple[Sequence[Row], torch.Tensor]:
        """See `Runner`; one forward pass a cohort."""
        rows: list[Row] = []
        logits: list[torch.Tensor] = []
        for cohort in self._cohorts:
            if not cohort.rows:
                continue
            with torch.inference_mode():
                cohort.compact()
                cohort.prompts = []
                cohort.mask = torch.cat((cohort.mask, cohort.mask.new_ones((len(cohort.rows), 1))), 1)
            tokens = torch.tensor([[row.token] for row in cohort.rows], device=self._device)
            logits.append(self._forward(cohort, tokens, keep=1)[:, -1])
            rows += cohort.rows
        for row in rows:
            row.length += 1
        return rows, torch.cat(logits)

    def close_row(self, row: Row) -> None:
        """See `Runner`."""
        cohort = self._cohort_of(row)
        index = cohort.rows.index(row)
        del cohort.rows[index], cohort.sources[index]
        self.close_prompt(row.prompt)
        self._drop_empty()

    def close_prompt(self, prompt: Prompt) -> None:
        """See `Runner`."""
        prompt.num_users -= 1
        if prompt.num_users == 0:
            self._incoming = [other for other in self._incoming if other is not prompt]
            self._drop_empty()

    def tokens_held(self) -> int:
        """See `Runner`."""
        return sum(cohort.tokens_held for cohort in self._cohorts) + sum(len(p.context) for p in self._incoming)

    def tokens_needed(self, num_prompt: int, num_new: int) -> int:
        """See `Runner`."""
        return num_prompt + num_new

    def forget(self) -> None:
        """See `Runner`; nothing is offered to later requests anyway."""

    def load(self, model_path: Path) -> None:
        """See `Runner`; the new model is in memory beside the old one for a moment."""
        try:
            fresh = self._read(model_path)
        except (OSError, ValueError, UsageError) as error:
            raise EngineError(f"cannot load weights from {model_path}: {error}") from error
        tensors = dict(_checkpoint_tensors(fresh))
        self.weights.check({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self.weights.copy(tensors.items())

    def _read(self, model_path: Path) -> Any:
        """A transformers model; they carry no types."""
        from transformers import AutoModelForCausalLM

        model, report = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=self._dtype, local_files_only=True, output_loading_info=True
        )
        if report["missing_keys"]:
            raise UsageError(f"{model_path} lacks weights, the first {min(report['missing_keys'])!r}")
        return model.eval()

    def _forward(self, cohort: Cohort, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        """Float32 logits [batch, kept, vocabulary]; the cohort's cache takes the tokens in."""
        positions = (cohort.mask.cumsum(1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": keep}
        with torch.inference_mode():
            output = self._model(
                input_ids=tokens,
                attention_mask=cohort.mask,
                past_key_values=cohort.cache,
                use_cache=True,
                **{name: value for name, value in optional.items() if name in self._forward_names},
            )
        cohort.cache = output.past_key_values
        logits: torch.Tensor = output.logits.float()
        return logits

    def _cohort_of(self, row: Row) -> Cohort:
        return next(cohort for cohort in self._cohorts if any(other is row for other in cohort.rows))

    def _drop_empty(self) -> None:
        self._cohorts = [
            cohort for cohort in self._cohorts if cohort.rows or any(prompt.num_users > 0 for prompt in cohort.prompts)
        ]


def _checkpoint_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A transformers model's weights by the names that its checkpoints have; views of the model's own tensors."""
    has_fused_experts = model.config.model_type in FUSED_EXPERTS
    for name, parameter in model.named_parameters():
        prefix, _, kind = name.rpartition(".")
        if not (has_fused_experts and prefix.endswith(".mlp.experts")):
            yield name, parameter
        elif kind == "down_proj":
            for expert, down in enumerate(parameter.unbind()):
                yield f"{prefix}.{expert}.down_proj.weight", down
        else:
            for expert, both in enumerate(parameter.unbind()):
                gate, up = both.chunk(2)
                yield f"{prefix}.{expert}.gate_proj.weight", gate
                yield f"{prefix}.{expert}.up_proj.weight", up
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias"))


def _score(prompt: Prompt, logits: torch.Tensor) -> None:
    first = prompt.first_scored
    if first >= len(prompt.context):
        return
    targets = torch.tensor(prompt.context[first:], device=logits.device)
    chosen, top, ids = score(logits[first - 1 : -1], targets, lambda rows: rows)
    prompt.input_log_probs.append(chosen)
    prompt.input_top.append((top, ids))
