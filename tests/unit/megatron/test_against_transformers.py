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
from slimrl.megatron.trainer import MegatronTrainer

FAMILIES = ("llama", "llama-tied", "llama3-rope", "qwen2", "qwen3", "qwen3-tied")
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
    with torch.no_grad():
        logits = trainer._model(packed) @ trainer._model.output_weight.T
    return [logits[path] for path in trie.paths]


@pytest.mark.parametrize("family", FAMILIES)
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
    for sequence, logits in zip(sequences, logits_of_each(trainer, sequences, share=share), strict=True):
        with torch.no_grad():
            expected = reference(torch.from_numpy(sequence)[None]).logits[0]
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
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
    assert all(torch.equal(loaded.state_dict()[name], original[name]) for name in original)


@pytest.mark.slow
def test_smollm2_agrees_with_transformers_on_real_text(make_trainer: Callable[..., MegatronTrainer]) -> None:
    folder = hub.fetch("smollm2-135m")
    trainer = make_trainer(folder)
    tokens = np.array(AutoTokenizer.from_pretrained(folder)(TEXT).input_ids)
    sequences = [tokens, tokens[:30], np.concatenate((tokens[:25], tokens[40:60]))]
    reference = AutoModelForCausalLM.from_pretrained(folder)
    for sequence, logits in zip(sequences, logits_of_each(trainer, sequences, share=True), strict=True):
        with torch.no_grad():
            expected = reference(torch.from_numpy(sequence)[None]).logits[0]
        assert (logits.log_softmax(-1) - expected.log_softmax(-1)).abs().max() < 1e-4
