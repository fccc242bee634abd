"""Draws tokens from logits; each draw depends on its request's seed and the token's index alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from slimrl.engines.embedded.params import Sampling
from slimrl.engines.embedded.request import Request, TopTokens
from slimrl.engines.embedded.scoring import MAX_TOP

_MASK = (1 << 64) - 1
_FEW = 256
"""Likeliest tokens that nearly always hold top_p of the probability: sorting all of them is slow."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request's next token; its log-prob is of the temperature-scaled distribution before any filter."""

    token: int
    log_prob: float
    top: TopTokens | None


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) with 24 bits, a hash of seed and index (splitmix64, Steele et al. 2014)."""
    state = _mix(_mix(seed & _MASK) + 0x9E3779B97F4A7C15 * (index + 1) & _MASK)
    return (state >> 40) / (1 << 24)


def derived_seed(seed: int, index: int) -> int:
    """The seed of the index-th of several responses to one request; the first keeps its own."""
    return seed if index == 0 else _mix(seed + 0xD1B54A32D192ED03 * index & _MASK) >> 1


def draw(
    logits: torch.Tensor,
    requests: Sequence[Request],
    row_of: Sequence[int],
    stop_ids: Callable[[Sampling], frozenset[int]],
) -> list[Drawn]:
    """The next token of each request, from its row of float32 logits [rows, vocabulary].

    Requests of one row that sample alike share the row's softmax.
    """
    sources: list[int] = []
    leaders: list[Request] = []
    place_of: dict[tuple[object, ...], int] = {}
    places: list[int] = []
    for request, row in zip(requests, row_of, strict=True):
        own = _is_adjusted(request)
        sampling = request.sampling
        temperature = 1.0 if sampling.is_greedy else sampling.temperature
        key = (row, temperature, sampling.top_p, sampling.top_k, sampling.min_p, id(request) if own else None)
        if key not in place_of:
            place_of[key] = len(sources)
            sources.append(row)
            leaders.append(request)
        places.append(place_of[key])
    if sources != list(range(logits.shape[0])) or any(_is_adjusted(leader) for leader in leaders):
        logits = logits[sources]
    for place, leader in enumerate(leaders):
        if _is_adjusted(leader):
            _adjust(logits[place], leader, stop_ids(leader.sampling))
    temperatures = [1.0 if leader.sampling.is_greedy else leader.sampling.temperature for leader in leaders]
    if any(temperature != 1.0 for temperature in temperatures):
        logits = logits / torch.tensor(temperatures, device=logits.device)[:, None]
    probs = torch.softmax(logits, -1)
    tokens = _tokens(probs, leaders, requests, places)
    index = torch.tensor([places, tokens], device=probs.device)
    log_probs = probs[index[0], index[1]].log().tolist()
    tops = {place: _top(logits[place]) for place in {p for p, r in zip(places, requests, strict=True) if r.num_top}}
    return [
        Drawn(token, log_prob, tops[place][: request.num_top] if request.num_top else None)
        for token, log_prob, place, request in zip(tokens, log_probs, places, requests, strict=True)
    ]


def _tokens(
    probs: torch.Tensor, leaders: Sequence[Request], requests: Sequence[Request], places: Sequence[int]
) -> list[int]:
    chosen = [-1] * len(requests)
    if any(leader.sampling.is_greedy for leader in leaders):
        best = probs.argmax(-1).tolist()
        for index, (request, place) in enumerate(zip(requests, places, strict=True)):
            if request.sampling.is_greedy:
                chosen[index] = best[place]
    plain: dict[int, list[int]] = {}
    for index, (request, place) in enumerate(zip(requests, places, strict=True)):
        if request.sampling.is_greedy:
            continue
        if request.sampling.has_filter:
            chosen[index] = _filtered(probs[place], request.sampling, _uniform(request))
        else:
            plain.setdefault(place, []).append(index)
    if plain:
        width = max(len(members) for members in plain.values())
        draws = [
            [_uniform(requests[index]) for index in members] + [0.0] * (width - len(members))
            for members in plain.values()
        ]
        rows = probs if list(plain) == list(range(len(probs))) else probs[list(plain)]
        picked = _invert(rows.cumsum(-1), torch.tensor(draws, device=probs.device)).tolist()
        for members, row in zip(plain.values(), picked, strict=True):
            for index, token in zip(members, row, strict=False):
                chosen[index] = token
    return chosen


def _uniform(request: Request) -> float:
    return uniform(request.seed, len(request.output_ids))


def _invert(cumulative: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """First places whose cumulative probability exceeds the draw: never one of probability 0."""
    wanted = draws * cumulative[..., -1:]
    return torch.searchsorted(cumulative, wanted, right=True).clamp_(max=cumulative.shape[-1] - 1)


def _filtered(probs: torch.Tensor, sampling: Sampling, draw_: float) -> int:
    """A token among those that top_k, top_p and min_p leave, by its share of what they leave."""
    vocab_size = probs.shape[0]
    count = min(vocab_size, sampling.top_k if sampling.top_k > 0 else _FEW)
    kept, ids = probs.topk(count)
    if sampling.top_k <= 0 and (sampling.min_p > 0 or float(kept.sum()) < sampling.top_p):
        kept, ids = probs.sort(descending=True)
    before = kept.cumsum(-1) - kept
    kept = kept * (before < sampling.top_p) * (kept >= sampling.min_p * kept[0])
    place = _invert(kept.cumsum(-1), torch.tensor([draw_], device=probs.device))
    return int(ids[place])


def _top(logits: torch.Tensor) -> TopTokens:
    best = torch.log_softmax(logits, -1).topk(min(MAX_TOP, logits.shape[0]))
    return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))


def _is_adjusted(request: Request) -> bool:
    sampling = request.sampling
    return bool(
        sampling.logit_bias
        or len(request.output_ids) < sampling.min_new_tokens
        or (sampling.has_penalty and request.output_ids)
    )


def _adjust(logits: torch.Tensor, request: Request, stop_ids: frozenset[int]) -> None:
    """Penalties on what was generated, biases, and no end before min_new_tokens; in place on [vocabulary]."""
    sampling, output_ids = request.sampling, request.output_ids
    if sampling.has_penalty and output_ids:
        ids = torch.tensor(output_ids, device=logits.device)
        seen, counts = torch.unique(ids, return_counts=True)
        before = logits[seen]
        before = torch.where(before > 0, before / sampling.repetition_penalty, before * sampling.repetition_penalty)
        logits[seen] = before - sampling.frequency_penalty * counts - sampling.presence_penalty
    for token, weight in sampling.logit_bias:
        logits[token] += weight
    if len(output_ids) < sampling.min_new_tokens:
        logits[[token for token in stop_ids if token < len(logits)]] = -torch.inf


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
