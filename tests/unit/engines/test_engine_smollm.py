"""The real model says what it says in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slimrl import hub
from slimrl.engines.embedded.engine import Engine

TEXT = (
    "The Nile is a major north-flowing river in northeastern Africa. It flows into the Mediterranean Sea. The Nile is "
    "the longest river in Africa and has historically been considered the longest river in the world, though this has "
    "been contested by research suggesting that the Amazon River is slightly longer."
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return hub.fetch("smollm2-135m")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _prompts(engine: Engine) -> list[list[int]]:
    """Fifty real prompts: questions in the chat template and beginnings of plain text."""
    subjects = ("France", "the moon", "a triangle", "rain", "Bach", "iron", "tea", "a prime number", "Rome", "glass")
    questions = [f"What is {subject}?" for subject in subjects]
    questions += [f"What is {first} + {second}?" for first in range(2, 7) for second in range(3, 7)]
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    texts = [chat.format(question) for question in questions]
    texts += [f"{subject.capitalize()} is" for subject in subjects] + [TEXT[: 20 * i] for i in range(1, 11)]
    assert len(texts) == 50
    return [engine.text.encode(text) for text in texts]


def test_greedy_output_equals_transformers_on_fifty_prompts(
    folder: Path, reference: Any, open_engine: Any, ask: Any
) -> None:
    engine = open_engine(folder)
    requests = [ask(prompt, temperature=0.0, max_new_tokens=12) for prompt in _prompts(engine)]
    engine.generate(requests)
    # greedy search takes these tokens exactly if each is the likeliest after those before it
    for request in requests:
        ids = torch.tensor([[*request.prompt_ids, *request.output_ids]])
        with torch.inference_mode():
            logits = reference(ids, logits_to_keep=13).logits[0, :-1]
        assert request.output_ids == logits.argmax(-1).tolist()
        wanted = torch.log_softmax(logits, -1).gather(1, ids[0, -12:, None])[:, 0]
        assert torch.tensor(request.log_probs).sub(wanted).abs().max() < 1e-4


def test_log_probs_of_real_text_equal_transformers(folder: Path, reference: Any, open_engine: Any, ask: Any) -> None:
    engine = open_engine(folder)
    ids = engine.text.encode(TEXT)
    request = ask(ids, score_from=0, max_new_tokens=0)
    engine.generate([request])
    with torch.inference_mode():
        logits = reference(torch.tensor([ids])).logits[0, :-1]
    wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert torch.tensor(request.input_log_probs).sub(wanted).abs().max() < 1e-4


def test_the_tokenizer_is_the_one_of_transformers(folder: Path, open_engine: Any, ask: Any) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = open_engine(folder).text
    text = "<|im_start|>user\nWhat is 12 + 345?\n\n  Ünïcödé 🙂<|im_end|>"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    for skip in (True, False):
        sampling = ask([1], skip_special_tokens=skip).sampling
        assert ours.decode(ids, sampling) == theirs.decode(ids, skip_special_tokens=skip)
