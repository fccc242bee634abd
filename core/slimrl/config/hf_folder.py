"""A Hugging Face checkpoint folder as far as it can be read without loading a model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.trained import ALL_LINEAR
from slimrl.errors import CheckpointError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""One of these has the tokens; tokenizer_config.json has none."""
ADAPTED = ("_proj", "_proj_with_mqa")
"""How the names of linear layers end."""
MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets."""


@dataclass(frozen=True)
class HfFolder:
    """The parsed config.json and the weight files of a checkpoint."""

    path: Path
    config: dict[str, Any]
    """config.json as it is: JSON values."""
    weights: tuple[Path, ...]
    """The safetensors files, each parameter in one of them; none where they are in Megatron's format."""

    @property
    def max_positions(self) -> int | None:
        """Tokens at most in prompt and response together, if the config says."""
        limit = self.config.get("max_position_embeddings")
        return limit if isinstance(limit, int) else None

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer can wrap a prompt in a chat template."""
        return self.chat_template is not None

    @property
    def chat_template(self) -> str | None:
        """The text of the chat template; of several, all as JSON."""
        template = self.path / "chat_template.jinja"
        if template.exists():
            try:
                return template.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{template} cannot be read: {error}") from error
        for settings in (self.path / "chat_template.json", self.path / "tokenizer_config.json"):
            found = _read_object(settings).get("chat_template") if settings.exists() else None
            if found:
                return found if isinstance(found, str) else json.dumps(found)
        return None

    def kv_numbers_per_token(self) -> int | None:
        """Numbers that one token keeps in the KV cache of all layers, if the config tells the shape."""
        try:
            heads = int(self.config["num_attention_heads"])
            width = self.config.get("head_dim") or int(self.config["hidden_size"]) // heads
            return (
                2 * int(self.config["num_hidden_layers"]) * int(self.config.get("num_key_value_heads") or heads) * width
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    def sizes(self) -> dict[str, int]:
        """Numbers of each tensor in the weight files; raises CheckpointError for a file that is not one."""
        return {name: math.prod(entry["shape"]) for file in self.weights for name, entry in _header(file).items()}

    def count_parameters(self, *, without: str | None = None) -> int:
        """Numbers in all weight files, but for one tensor's; raises CheckpointError for a file that is not one."""
        return sum(size for name, size in self.sizes().items() if name != without)

    def count_adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Numbers in low-rank adapters of these linear layers, by their last name."""
        return sum(rank * size for name, size in self._adapted() if ALL_LINEAR in targets or name in targets)

    def adapted_names(self) -> set[str]:
        """The last names of the linear layers that adapters can be beside."""
        return {name for name, _ in self._adapted()}

    def _adapted(self) -> Iterator[tuple[str, int]]:
        """The last name of each linear layer outside of experts, and its inputs and outputs together."""
        for file in self.weights:
            for name, entry in _header(file).items():
                module = name.split(".")[-2] if "." in name else ""
                is_linear = len(entry["shape"]) == 2 and module.endswith(ADAPTED) and ".layers." in name
                if is_linear and ".experts." not in name:
                    yield module, sum(entry["shape"])


def open_hf_folder(path: Path, flag: str) -> HfFolder:
    """Read the folder that a flag names; raises CheckpointError saying what is missing from it."""
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{flag} {path} {kind}; expected the folder of a Hugging Face checkpoint")
    if not (path / "config.json").exists():
        raise CheckpointError(f"{flag} {path} has no config.json; expected a Hugging Face checkpoint")
    config = _read_object(path / "config.json", flag)
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{flag} {path} has no tokenizer; expected {TOKENIZER_FILES[0]} or the like beside it")
    weights = _weight_files(path, flag)
    if not weights and tensors_folder(path) is None:
        raise CheckpointError(f"{flag} {path} has no weights; expected *.safetensors files")
    return HfFolder(path, config, weights)


def _read_object(file: Path, flag: str | None = None) -> dict[str, Any]:
    """What a JSON file of a checkpoint holds; `flag` is what named the checkpoint."""
    named = f"{flag}: {file}" if flag else str(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{named} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{named} holds no JSON object")
    return found


def _weight_files(path: Path, flag: str) -> tuple[Path, ...]:
    # some checkpoints carry their weights a second time in the original layout: the index, or the one file, counts
    index = path / "model.safetensors.index.json"
    if index.exists():
        files = _read_object(index, flag).get("weight_map", {})
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise CheckpointError(f"{flag}: {index}: 'weight_map' must have the name of a file for each tensor")
        return tuple(path / name for name in sorted(set(files.values())))
    whole = path / "model.safetensors"
    return (whole,) if whole.exists() else tuple(sorted(path.glob("*.safetensors")))


def _header(file: Path) -> dict[str, Any]:
    """Entries by tensor name; a safetensors file begins with the header's length as 8 bytes, little-endian."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if file.stat().st_size < expected:
            raise ValueError(f"{file.stat().st_size} of {expected} bytes are there")
        return entries
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file: {error}") from error
