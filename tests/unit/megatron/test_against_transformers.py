"""The Megatron model against transformers on the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from slimrl import hub
from slimrl.algorithms.prefix_trie import build_trie
from slimrl.algorithms.segments import attention_segments
from slimrl.megatron.convert.weights import export_weights
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

TEXT = (
    "The quick brown fox jumps over the lazy dog. In 1969, two people walked on the Moon for the first time; "
    "half a billion watched. def add(x, y):\n    return x + y\n"
)


def logits_of_each(trainer: MegatronTrainer, sequences: list[np.ndarray], *, share: bool) -> list[torch.Tensor]:
    from slimrl.megatron.attention import packed_segments
    from slimrl.megatron.model import PackedTokens

    trie = build_trie(sequences, share=share)
    packed = PackedTokens(
        tokens=torch.from_numpy(trie.tokens),
        positions=torch.from_numpy(trie.positions),
        segments=packed_segments(attention_segments(trie), torch.device("cpu")),
        predictors=torch.arange(len(trie)),
    )
    logits = trainer._chunks[0](packed) @ trainer._chunks[0].output_weight.T
    return [logits[path] for path in trie.paths]


@pytest.mark.parametrize("share", [True, False])
def test_logits_equal_transformers(
    family: str, share: bool, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    trainer = make_trainer(checkpoints[family])
    reference = AutoModelForCausalLM.from_pretrained(checkpoints[family])
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 83, 20)
    sequences = [
        np.concatenate((prompt[:keep], rng.integers(0, 83, tail))) for keep, tail in ((20, 9), (20, 40), (7, 3))
    ]
    with torch.no_grad():
        computed = logits_of_each(trainer, sequences, share=share)
    for sequence, logits in zip(sequences, computed, strict=True):
        with torch.no_grad():
            expected = reference(torch.from_numpy(sequence)[None]).logits[0]
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_weights_come_back_bit_for_bit(
    family: str, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer(checkpoints[family])
    original = load_file(checkpoints[family] / "model.safetensors")
    exported = dict(trainer.export_weights())
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], original[name]) for name in original)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    trainer.save(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert loaded.dtype is torch.float32
    expected = AutoModelForCausalLM.from_pretrained(checkpoints[family]).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("family", ["mistral", "qwen3-moe", "glm4", "deepseek-v3", "deepseek-v3-yarn"])
def test_gradients_equal_transformers(
    family: str, checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    trainer = make_trainer(checkpoints[family])
    reference = AutoModelForCausalLM.from_pretrained(checkpoints[family])
    rng = np.random.default_rng(1)
    prompt = rng.integers(0, 83, 11)
    sequences = [np.concatenate((prompt, rng.integers(0, 83, tail))) for tail in (6, 9)]
    logits = logits_of_each(trainer, sequences, share=True)
    sum(each.sin().sum() for each in logits).backward()  # type: ignore[union-attr]
    sum(reference(torch.from_numpy(each)[None]).logits.sin().sum() for each in sequences).backward()
    weights = dict(trainer._chunks[0].named_parameters())
    gradients = dict(export_weights({name: gradient_of(weight) for name, weight in weights.items()}, trainer._shape))
    expected = {name: gradient_of(weight) for name, weight in reference.named_parameters()}
    for name in [name for name in expected if name.endswith("experts.gate_up_proj")]:
        for expert, both in enumerate(expected.pop(name)):
            prefix = name.replace("gate_up_proj", str(expert))
            expected[f"{prefix}.gate_proj.weight"], expected[f"{prefix}.up_proj.weight"] = both.chunk(2)
    for name in [name for name in expected if name.endswith("experts.down_proj")]:
        for expert, down in enumerate(expected.pop(name)):
            expected[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
    assert gradients.keys() - expected.keys() <= {
        name for name in gradients if name.endswith("e_score_correction_bias")
    }
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() < 1e-4 * gradient.abs().max().clamp(min=1), name


def gradient_of(weight: torch.Tensor) -> torch.Tensor:
    """Zeros where none came; Megatron's are in buffers of its own."""
    gradient = getattr(weight, "main_grad", None) if weight.grad is None else weight.grad
    return torch.zeros_like(weight) if gradient is None else gradient


@pytest.mark.parametrize("family", ["qwen3-moe", "deepseek-v3"])
def test_experts_train_and_the_routers_bias_stays(
    family: str,
    checkpoints: dict[str, Path],
    make_trainer: Callable[..., MegatronTrainer],
    make_batch: Callable[..., TrainBatch],
    tmp_path: Path,
) -> None:
    trainer = make_trainer(checkpoints[family])
    original = load_file(checkpoints[family] / "model.safetensors")
    trainer.train(make_batch(0))
    for name, weight in trainer.export_weights():
        assert torch.equal(weight, original[name]) == name.endswith("e_score_correction_bias"), name
    trainer.save(tmp_path)
    resumed = make_trainer(checkpoints[family])
    resumed.load(tmp_path)
    expected = trainer.train(make_batch(1)).metrics["train/grad_norm"]
    assert resumed.train(make_batch(1)).metrics["train/grad_norm"] == expected


@pytest.mark.slow
def test_smollm2_agrees_with_transformers_on_real_text(make_trainer: Callable[..., MegatronTrainer]) -> None:
    folder = hub.fetch("smollm2-135m")
    trainer = make_trainer(folder)
    tokens = np.array(AutoTokenizer.from_pretrained(folder)(TEXT).input_ids)
    sequences = [tokens, tokens[:30], np.concatenate((tokens[:25], tokens[40:60]))]
    reference = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        computed = logits_of_each(trainer, sequences, share=True)
    for sequence, logits in zip(sequences, computed, strict=True):
        with torch.no_grad():
            expected = reference(torch.from_numpy(sequence)[None]).logits[0]
        assert (logits.log_softmax(-1) - expected.log_softmax(-1)).abs().max() < 1e-4
