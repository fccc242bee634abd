"""The trainer on a GPU against slow versions on the CPU: `python -m pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from slimrl.algorithms.prefix_trie import build_trie
from slimrl.algorithms.segments import block_segments
from slimrl.config import GrpoConfig
from slimrl.config.trained import TrainedConfig
from slimrl.megatron import fused
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.traits import advantage_traits
from slimrl.types import TrainBatch

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

FAMILIES = ("llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "qwen3-moe", "glm4", "deepseek-v3")


def slow_step(checkpoint: Path, batch: TrainBatch) -> tuple[float, float]:
    """Loss and gradient norm of one on-policy step, sample by sample, in float32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.get_input_embeddings().padding_idx = None  # it would have no gradient
    lengths = (batch.prompt_lengths + batch.response_lengths).cumsum()[:-1]
    rows, masks = np.split(batch.tokens, lengths), np.split(batch.loss_mask, batch.response_lengths.cumsum()[:-1])
    rollouts = dict.fromkeys(batch.rollout_ids.tolist())
    trained = {rollout: sum(int(masks[i].sum()) for i in _of(batch, rollout)) for rollout in rollouts}
    loss = torch.zeros(())
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        ids, start = torch.from_numpy(row.astype(np.int64)), int(batch.prompt_lengths[i])
        log_p = model(ids[None]).logits[0, start - 1 : -1].log_softmax(-1).gather(-1, ids[start:, None])[:, 0]
        ratio = (log_p - log_p.detach()).exp()
        count = max(trained[int(batch.rollout_ids[i])], 1)
        loss = loss - (ratio * torch.from_numpy(mask)).sum() * float(batch.rewards[i]) / count / len(rollouts)
    loss.backward()
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    return loss.item(), torch.stack(norms).norm().item()


def _of(batch: TrainBatch, rollout: int) -> list[int]:
    return np.flatnonzero(batch.rollout_ids == rollout).tolist()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("channels", [64, 128])
def test_flash_attention_over_a_trie_equals_a_dense_mask(
    share: bool, channels: int, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    make_trainer(checkpoints["llama"], device="cuda")
    from slimrl.megatron.attention import PackedAttention, packed_segments

    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 9, size) for size in (300, 40)]
    trie = build_trie(
        [np.concatenate((prompts[i % 2], rng.integers(0, 9, rng.integers(1, 200)))) for i in range(12)], share=share
    )
    generator = torch.Generator("cuda").manual_seed(0)
    heads = (8, 2, 2)
    parts = [torch.randn(len(trie), n, channels, generator=generator, device="cuda") for n in heads]
    fast = [part.bfloat16().requires_grad_() for part in parts]
    slow = [part.detach().double().requires_grad_() for part in fast]
    packed = packed_segments(block_segments(trie), torch.device("cuda"))
    found = PackedAttention(config=None)(*fast, None, packed_seq_params=packed)
    mask = torch.from_numpy(trie.ancestor_mask()).cuda()
    by_head = [part.transpose(0, 1)[None] for part in slow]
    wanted = F.scaled_dot_product_attention(*by_head, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1).flatten(1)
    upstream = torch.randn(wanted.shape, generator=generator, device="cuda")
    grads = torch.autograd.grad(found, fast, upstream.bfloat16())
    slow_grads = torch.autograd.grad(wanted, slow, upstream.double())
    for one, other in zip((found, *grads), (wanted, *slow_grads), strict=True):
        assert (one.double() - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("entropy_has_grad", [True, False])
def test_log_probs_of_a_large_vocabulary_equal_log_softmax(
    entropy_has_grad: bool, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    make_trainer(checkpoints["llama"], device="cuda")
    from slimrl.megatron.logprob import token_log_probs

    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(3000, 128, generator=generator, device="cuda").bfloat16().requires_grad_()
    weight = torch.randn(151936, 128, generator=generator, device="cuda").mul_(0.2).bfloat16().requires_grad_()
    weight.main_grad = torch.zeros(weight.shape, device="cuda")
    rows = torch.randint(0, 3000, (4000,), generator=generator, device="cuda")
    targets = torch.randint(0, 151936, (4000,), generator=generator, device="cuda")
    found = token_log_probs(hidden, weight, rows, targets, temperature=0.8, entropy_has_grad=entropy_has_grad)
    slow = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    log_p = (slow[0] @ slow[1].T / 0.8).log_softmax(-1)
    wanted = log_p[rows].gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)[rows]
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() < 1e-4
    factors = torch.randn(2, 4000, generator=generator, device="cuda")
    sums = [(factors[0] * p).sum() + entropy_has_grad * (factors[1] * h).sum() for p, h in (found, wanted)]
    sums[0].backward()
    for one, other in zip((hidden.grad, weight.main_grad), torch.autograd.grad(sums[1], slow), strict=True):
        assert one is not None
        assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("vocabulary", [50, 9000, 151936])
def test_kernels_of_rows_equal_torchs_operations(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, vocabulary, generator=generator) * 3
    log_sums, entropy = fused.row_sums(logits.double(), 0.7)
    for one, other in zip(fused.row_sums(logits.cuda(), 0.7), (log_sums, entropy), strict=True):
        torch.testing.assert_close(one.double().cpu(), other, atol=1e-4, rtol=1e-5)
    rows = (log_sums.float(), entropy.float(), *torch.randn(2, 37, generator=generator))
    found = fused.logit_grads(logits.cuda(), 0.7, *(row.cuda() for row in rows), torch.float32)
    torch.testing.assert_close(found.cpu(), fused.logit_grads(logits, 0.7, *rows, torch.float32), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("channels", [16, 24])
@pytest.mark.parametrize("is_interleaved", [True, False])
def test_kernels_of_layers_equal_torchs_operations(channels: int, is_interleaved: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    both, grad = (torch.randn(7, 3, width, generator=generator) for width in (600, 300))
    heads, angles = torch.randn(6, 5, 3 * channels, generator=generator), torch.randn(6, 1, 8, generator=generator)
    cases = (
        (fused.swiglu, (both,), ()),
        (fused.swiglu_grad, (both, grad), ()),
        (fused.rotate, (heads[..., :channels], angles.cos(), angles.sin()), (is_interleaved,)),
    )
    for function, tensors, rest in cases:
        found = function(*(tensor.cuda() for tensor in tensors), *rest)
        torch.testing.assert_close(found.cpu(), function(*tensors, *rest), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_equals_the_slow_version(
    family: str,
    dtype: str,
    tolerance: float,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    trainer, batch = make_trainer(checkpoints[family], device="cuda", dtype=dtype), make_batch(0)
    metrics = trainer.train(batch).metrics
    loss, norm = slow_step(checkpoints[family], batch)
    assert metrics["train/loss"] == pytest.approx(loss, abs=tolerance)
    assert metrics["train/grad_norm"] == pytest.approx(norm, rel=tolerance)


@pytest.mark.parametrize("kind", ["kl", "entropy", "lora", "ppo", "three steps"])
def test_what_else_there_is_trains_and_raises_what_was_rewarded(
    kind: str,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    @advantage_traits(needs_values=kind == "ppo")
    def given(rollout: object) -> object:
        from slimrl import Advantages

        rewards = rollout.rewards[rollout.sample_of_token]  # type: ignore[attr-defined]
        return Advantages(rewards, rewards) if kind == "ppo" else rewards

    grpo = {"kl": GrpoConfig(use_kl_loss=True, kl_loss_coef=0.01), "entropy": GrpoConfig(entropy_coef=0.01)}
    kwargs = {"lora": {"trained": TrainedConfig(lora_rank=4)}, "three steps": {"num_steps_per_rollout": 3}}
    trainer = make_trainer(
        checkpoints["qwen3"],
        device="cuda",
        dtype="bfloat16",
        grpo=grpo.get(kind, GrpoConfig()),
        advantage=given,
        **kwargs.get(kind, {}),
    )
    batch = make_batch(0, advantages=[1.0] * 16)
    entropies = [trainer.train(replace(batch, step=step)).metrics["train/entropy"] for step in range(6)]
    assert np.isfinite(entropies).all()
    assert entropies[-1] < entropies[0] - 0.1


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
) -> None:
    whole = make_trainer(checkpoints["qwen3"], device="cuda", dtype="bfloat16", deterministic=True)
    whole.train(make_batch(0))
    whole.save(tmp_path)
    expected = [whole.train(make_batch(seed)).metrics["train/grad_norm"] for seed in (1, 2)]
    resumed = make_trainer(checkpoints["qwen3"], device="cuda", dtype="bfloat16", deterministic=True)
    resumed.load(tmp_path)
    assert [resumed.train(make_batch(seed)).metrics["train/grad_norm"] for seed in (1, 2)] == expected
    torch.use_deterministic_algorithms(False)
