"""Tokenizers load without torch where nothing of it is needed, and say the same as transformers' own choice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimrl.config import EvalConfig, RolloutConfig
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.lengths import Lengths
from slimrl.config.prompt_files import PromptFileSpec
from slimrl.data.encoder import PromptEncoder
from slimrl.data.fits import PromptFits
from slimrl.data.limits import PromptLimits
from slimrl.data.prompts import LongPromptError, PromptRow
from slimrl.data.training import open_training, scan_training
from slimrl.errors import DataError
from slimrl.tokenizer import load_tokenizer
from slimrl.types import Prompt


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


def row(prompt: Prompt, **fields: Any) -> PromptRow:
    return PromptRow(prompt, **fields)


def test_tools_and_variables_reach_the_chat_template(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for tool in tools or [] %}{{ tool.number }} {% endfor %}{% if thinking %}8 {% endif %}"
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}7{% endif %}"
    )
    config = RolloutConfig(apply_chat_template=True, apply_chat_template_kwargs='{"thinking": true}')
    plain = PromptEncoder.of_training(replace(config, apply_chat_template_kwargs=None), folder)
    encoder = PromptEncoder.of_training(config, folder)
    words = ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert [words[i] for i in plain.encode(row("1 2"), "")] == ["1", "2", "7"]
    assert [words[i] for i in encoder.encode(row("1 2", tools=[{"number": 3}, {"number": 4}]), "")] == [
        *("3", "4", "8", "1", "2", "7")
    ]


def test_a_template_that_raises_names_the_row(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}")
    encoder = PromptEncoder(folder, apply_chat_template=True)
    with pytest.raises(DataError, match=r"p:3: the chat template refuses this prompt: no system message"):
        encoder.encode(row("1"), "p:3")


def test_a_prompt_must_leave_room_for_a_token(tiny_checkpoint: Path) -> None:
    encoder = PromptEncoder.of_training(RolloutConfig(), tiny_checkpoint)
    assert len(encoder.encode(row("1 " * 63), "p:1")) == 63
    with pytest.raises(LongPromptError, match=r"p:2: the prompt has 64 tokens, which leaves no room .* context of 64"):
        encoder.encode(row("1 " * 64), "p:2")
    with pytest.raises(LongPromptError, match=r"p:2: the prompt has 5 tokens; --rollout-max-prompt-len allows 4"):
        PromptEncoder.of_training(RolloutConfig(rollout_max_prompt_len=4), tiny_checkpoint).encode(
            row("1 2 3 4 5"), "p:2"
        )


def test_an_evaluation_set_has_limits_of_its_own_or_those_of_training(tiny_checkpoint: Path) -> None:
    rollout = RolloutConfig(rollout_max_prompt_len=4, rollout_max_context_len=9)
    encoder, model = PromptEncoder.of_training(rollout, tiny_checkpoint), open_hf_folder(tiny_checkpoint, "")

    def refusal(config: EvalConfig, own: EvalDataset | None, count: int) -> str:
        limits = PromptLimits.of(Lengths.of_evaluation(config, rollout, own), model)
        with pytest.raises(LongPromptError) as caught:
            encoder.within(limits).encode(row("1 " * count), "p:2")
        encoder.within(limits).encode(row("1 " * (count - 1)), "p:1")
        return str(caught.value)

    own = EvalDataset("sums", Path("p"), max_prompt_len=3)
    assert refusal(EvalConfig(), None, 5).endswith("--rollout-max-prompt-len allows 4")
    assert refusal(EvalConfig(eval_max_prompt_len=6), None, 7).endswith("--eval-max-prompt-len allows 6")
    assert refusal(EvalConfig(eval_max_prompt_len=6), own, 4).endswith(
        "p:2: the prompt has 4 tokens; evaluation set 'sums': max_prompt_len allows 3"
    )
    assert refusal(EvalConfig(eval_max_prompt_len=99), None, 9).endswith("no room for a reply in the context of 9")
    assert refusal(EvalConfig(eval_max_prompt_len=99, eval_max_context_len=12), None, 12).endswith("context of 12")


def smaller(tiny_checkpoint: Path, folder: Path) -> Path:
    """The tiny checkpoint with a vocabulary that lacks its tokenizer's last three ids."""
    shutil.copytree(tiny_checkpoint, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"vocab_size": 6}))
    return folder


def test_ids_outside_of_the_vocabulary_are_refused_at_load_with_their_row(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder, path = smaller(tiny_checkpoint, tmp_path / "model"), tmp_path / "p.jsonl"
    path.write_text('{"input": "1 6"}\n{"input": "2 8"}\n')
    encoder = PromptEncoder.of_training(RolloutConfig(), folder)
    with pytest.raises(DataError, match=r"p\.jsonl:2: the prompt has the token id 7, the model's vocabulary has 6"):
        open_training([PromptFileSpec(path)], RolloutConfig(), encoder, folder)
    lenient = RolloutConfig(skip_bad_rows=True)
    prompts, left_out = open_training([PromptFileSpec(path)], lenient, encoder, folder)
    assert (len(prompts), [entry.count for entry in left_out]) == (1, [1])


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8), limit=st.none() | st.integers(1, 40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_scan_leaves_out_what_the_encoder_refuses_and_the_run_the_same(
    lengths: list[int], limit: int | None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"input": "1 " * n, "label": n}) + "\n" for n in [*lengths, 1]))
    config = RolloutConfig(label_key="label", rollout_max_prompt_len=limit, skip_long_prompts=True)
    kept = [n for n in [*lengths, 1] if n <= min(limit or 63, 63)]
    specs = [PromptFileSpec(path)]
    prompts, _ = open_training(specs, config, PromptEncoder.of_training(config, tiny_checkpoint), tiny_checkpoint)
    assert scan_training(specs, config, tiny_checkpoint).count == len(prompts) == len(kept)
    assert [prompts[i].label for i in range(len(prompts))] == kept
    if len(kept) <= len(lengths):
        with pytest.raises(
            LongPromptError, match=rf":{next(i for i, n in enumerate(lengths, 1) if n > min(limit or 63, 63))}: "
        ):
            scan_training(specs, replace(config, skip_long_prompts=False), tiny_checkpoint)


def test_short_prompts_need_no_tokenizer_to_be_known_to_fit() -> None:
    def never() -> PromptEncoder:
        raise AssertionError("made an encoder")

    fits = PromptFits(never, limit=200, template="{{ messages }}")
    fits(row("a" * 100), "")
    fits(row([{"role": "user", "content": "a" * 30}]), "")
    with pytest.raises(AssertionError):
        fits(row("é" * 100), "")
