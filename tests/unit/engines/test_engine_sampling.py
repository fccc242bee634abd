"""Draws follow the distribution, and nothing but the seed and the token's index decides them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimrl.engines.embedded.params import RequestError, Sampling, parse_sampling
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.sampling import Drawn, derived_seed, draw, uniform


def _request(seed: int = 0, output_ids: tuple[int, ...] = (), num_top: int = 0, **sampling: Any) -> Request:
    return Request("r", (1,), Sampling(**sampling), seed=seed, output_ids=list(output_ids), num_top=num_top)


def _draw(logits: torch.Tensor, requests: list[Request], row_of: list[int] | None = None) -> list[Drawn]:
    return draw(logits, requests, row_of or [0] * len(requests), lambda sampling: sampling.stop_token_ids)


@given(st.integers(0, 2**63), st.integers(0, 10_000))
def test_uniform_is_in_the_unit_interval_also_as_float32(seed: int, index: int) -> None:
    value = torch.tensor(uniform(seed, index), dtype=torch.float32)
    assert 0 <= value < 1


def test_uniform_is_uniform_along_seeds_and_along_indexes() -> None:
    for numbers in (
        [uniform(seed, 0) for seed in range(4000)],
        [uniform(7, index) for index in range(4000)],
        [uniform(derived_seed(3, copy), 1) for copy in range(4000)],
    ):
        counts = torch.histc(torch.tensor(numbers), 20, 0, 1)
        # chi-square with 19 degrees of freedom: 43.8 is exceeded once in a thousand times
        assert ((counts - 200) ** 2 / 200).sum() < 43.8


def test_draws_follow_the_temperature_scaled_softmax() -> None:
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(0)) * 2
    drawn = _draw(logits, [_request(seed, temperature=1.5) for seed in range(6000)])
    probs = torch.softmax(logits[0] / 1.5, -1)
    counts = torch.bincount(torch.tensor([one.token for one in drawn]), minlength=6)
    assert (counts / 6000 - probs).abs().max() < 0.02
    for one in drawn[:50]:
        assert one.log_prob == pytest.approx(float(probs[one.token].log()), abs=1e-6)


@given(
    st.integers(0, 1000),
    st.sampled_from([-1, 2, 5]),
    st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_filters_leave_what_a_slow_filter_leaves(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed)) * 2
    probs = torch.softmax(logits[0], -1).tolist()
    allowed, before = set(), 0.0
    for rank, token in enumerate(sorted(range(30), key=lambda token: -probs[token])):
        if (top_k == -1 or rank < top_k) and before < top_p - 1e-6 and probs[token] >= min_p * max(probs) - 1e-6:
            allowed.add(token)
        before += probs[token]
    requests = [_request(seed, top_k=top_k, top_p=top_p, min_p=min_p) for seed in range(60)]
    drawn = _draw(logits, requests)
    assert {one.token for one in drawn} <= allowed
    for one in drawn:
        # of the distribution before the filter
        assert one.log_prob == pytest.approx(torch.log_softmax(logits[0], -1)[one.token].item(), abs=1e-5)


def test_top_p_looks_past_the_likeliest_256_tokens_when_it_must() -> None:
    logits = torch.zeros(1, 2000)
    tokens = {one.token for one in _draw(logits, [_request(seed, top_p=0.9) for seed in range(800)])}
    assert len(tokens) > 500


def test_greedy_takes_the_likeliest_and_reports_unscaled_log_probs() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    (one,) = _draw(logits, [_request(temperature=0.0)])
    assert one.token == int(logits.argmax())
    assert one.log_prob == pytest.approx(float(torch.log_softmax(logits[0], -1).max()), abs=1e-6)


def test_a_mixed_batch_draws_what_each_request_draws_alone() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2)) * 3
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.3},
        {"temperature": 0.0},
        {"top_p": 0.5},
        {"top_k": 4, "temperature": 2.0},
        {"presence_penalty": 1.0, "output_ids": (3, 4)},
        {"logit_bias": ((5, 8.0),)},
    ]
    requests = [_request(seed, **kind) for seed in range(4) for kind in kinds]
    row_of = [index % 3 for index in range(len(requests))]
    together = _draw(logits, requests, row_of)
    for request, row, one in zip(requests, row_of, together, strict=True):
        (alone,) = _draw(logits[row : row + 1], [request])
        assert one.token == alone.token
        assert one.log_prob == pytest.approx(alone.log_prob, abs=1e-6)


def test_penalties_count_what_was_generated() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    request = _request(
        output_ids=(0, 0, 1), temperature=0.0, num_top=4,
        frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=2.0,
    )  # fmt: skip
    (one,) = _draw(logits, [request])
    wanted = torch.log_softmax(torch.tensor([2.0 / 2 - 2 * 0.5 - 0.25, -1.0 * 2 - 0.5 - 0.25, 0.5, 0.0]), -1)
    assert one.top is not None
    assert {token: log_prob for log_prob, token in one.top} == pytest.approx(dict(enumerate(wanted.tolist())))


def test_no_stop_token_is_drawn_before_min_new_tokens() -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0]])
    early = _request(temperature=0.0, stop_token_ids=frozenset({0, 99}), min_new_tokens=1)
    late = _request(temperature=0.0, stop_token_ids=frozenset({0}), min_new_tokens=1, output_ids=(2,))
    assert [one.token for one in _draw(logits, [early, late])] == [2, 0]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"temperatur": 1}, "unknown sampling parameter 'temperatur'"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be a finite float"),
        ({"temperature": "hot"}, "temperature must be a finite float, got 'hot'"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a int"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"n": 0}, "n must be at least 1"),
        ({"stop": ["a"] * 33}, "stop has 33 strings"),
        ({"stop": [""]}, "non-empty strings"),
        ({"stop_token_ids": ["1"]}, "stop_token_ids must be a list of token ids"),
        ({"regex": "a*"}, "'regex' is not supported"),
        ({"logit_bias": {"1000": 1.0}}, "ids are below 100"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "between 0 and max_new_tokens"),
    ],
)
def test_a_wrong_sampling_parameter_is_named(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_sampling(given_, 100)
    assert words in str(caught.value)


def test_null_means_the_default() -> None:
    assert parse_sampling({"temperature": None, "stop": None, "regex": None}, 100) == Sampling()
