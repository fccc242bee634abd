"""Log-probs and entropy from hidden states against torch's log_softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.megatron import logits, logprob
from slimrl.megatron.logprob import token_log_probs
from slimrl.megatron.logprob_gpu import GpuLogProbs


def slow(hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, temperature: float):
    log_p = (hidden @ weight.T / temperature).log_softmax(-1)[rows]
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def gpu_log_probs(hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, **kwargs):
    log_probs, entropy = GpuLogProbs.apply(
        hidden, weight, rows, targets, kwargs["temperature"], kwargs["entropy_has_grad"]
    )
    return log_probs, entropy[rows]


def check(
    num_rows: int, num_tokens: int, temperature: float, entropy_has_grad: bool, seed: int, compute=token_log_probs
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    rows = torch.randint(0, num_rows, (num_tokens,), generator=generator)
    targets = torch.randint(0, 50, (num_tokens,), generator=generator)
    factors = torch.randn(2, num_tokens, generator=generator)
    log_probs, entropy = compute(
        hidden, weight, rows, targets, temperature=temperature, entropy_has_grad=entropy_has_grad
    )
    expected = slow(hidden.double(), weight.double(), rows, targets, temperature)
    torch.testing.assert_close(log_probs.double(), expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), expected[1], atol=1e-5, rtol=1e-5)
    loss, slow_loss = (factors[0] * log_probs).sum(), (factors[0] * expected[0]).sum()
    if entropy_has_grad:
        loss, slow_loss = loss + (factors[1] * entropy).sum(), slow_loss + (factors[1] * expected[1]).sum()
    got = torch.autograd.grad(loss, (hidden, weight))
    want = torch.autograd.grad(slow_loss, (hidden, weight))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 20),
    st.floats(0.3, 2.0),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from([token_log_probs, gpu_log_probs]),
)
def test_values_and_gradients_equal_log_softmax(
    num_rows: int, num_tokens: int, temperature: float, entropy_has_grad: bool, seed: int, compute
) -> None:
    check(num_rows, num_tokens, temperature, entropy_has_grad, seed, compute)


@pytest.mark.parametrize("compute", [token_log_probs, gpu_log_probs])
@pytest.mark.parametrize("entropy_has_grad", [True, False])
def test_computing_logits_again_in_chunks_gives_the_same(
    entropy_has_grad: bool, compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprob, "KEPT_BYTES", 0)
    monkeypatch.setattr(logits, "CHUNK_BYTES", {"cpu": 3 * 50 * 4})
    check(8, 15, 0.8, entropy_has_grad, seed=1, compute=compute)


def test_large_logits_stay_accurate() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(20, 64, generator=generator), torch.randn(30000, 64, generator=generator) / 2
    rows, targets = torch.arange(20), torch.arange(20)
    got = token_log_probs(hidden, weight, rows, targets, temperature=1.0, entropy_has_grad=False)
    for value, expected in zip(got, slow(hidden.double(), weight.double(), rows, targets, 1.0), strict=True):
        assert (value - expected).abs().max() < 1e-5


def test_bfloat16_weights_give_float32_log_probs() -> None:
    hidden = torch.randn(3, 8).bfloat16().requires_grad_()
    weight = torch.randn(20, 8).bfloat16().requires_grad_()
    log_probs, _ = token_log_probs(
        hidden, weight, torch.arange(3), torch.arange(3), temperature=1.0, entropy_has_grad=False
    )
    log_probs.sum().backward()
    assert log_probs.dtype is torch.float32
    assert hidden.grad is not None and weight.grad is not None and weight.grad.dtype is torch.bfloat16
