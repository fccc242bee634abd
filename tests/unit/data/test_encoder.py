"""Tokenizers load without torch where nothing of it is needed, and say the same as transformers' own choice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from slimrl.data.encoder import load_tokenizer


def test_a_generic_tokenizer_says_what_transformers_own_choice_says(small_model: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(small_model), AutoTokenizer.from_pretrained(small_model)
    messages = [{"role": "user", "content": "What is 12 + 7?\n  <|im_end|> é 你好"}]
    for text in ("a  b\tc 123", "", "naïve 你好 <|im_start|>"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    arguments = {"add_generation_prompt": True, "return_dict": False}
    assert ours.apply_chat_template(messages, **arguments) == theirs.apply_chat_template(messages, **arguments)


def test_a_generic_tokenizer_brings_no_torch(small_model: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom slimrl.data.encoder import load_tokenizer\n"
        "load_tokenizer(Path(sys.argv[1]))('hello')\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_model)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_tokenizer_of_a_class_of_its_own_is_left_to_transformers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert type(load_tokenizer(folder)).__name__.startswith("GPT2")
