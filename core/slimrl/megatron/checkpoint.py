"""What a checkpoint folder of the trainer holds.

model/                  a Hugging Face checkpoint: weights, config, tokenizer
adapter/                with --lora-rank in its place: the adapters as PEFT has them
optimizer.safetensors   optimizer state by Megatron parameter name; absent with --no-save-optim
optimizer/              with --ckpt-format torch_dist in its place: the same in pieces; model/ is then one of Megatron
trainer.json            counters and random states
critic/                 the same three of the critic, if there is one; its model is a token classifier of one label
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimrl.config.megatron_folder import tensors_folder
from slimrl.errors import CheckpointError
from slimrl.megatron.tensor_files import write_tensors, write_weights

MODEL = "model"
ADAPTER = "adapter"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
OPTIMIZER, OPTIMIZER_PIECES = "optimizer.safetensors", "optimizer"
TRAINER = "trainer.json"
CRITIC = "critic"
FORMAT = 1


def is_trainer_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of ours, rather than a Hugging Face checkpoint."""
    return (folder / TRAINER).is_file()


def model_folder(folder: Path) -> Path:
    """Where the weights are: in a checkpoint of ours, or the folder itself; a Hugging Face checkpoint or Megatron's.

    Raises CheckpointError for a checkpoint of adapters.
    """
    if is_trainer_checkpoint(folder) and (folder / ADAPTER).is_dir():
        raise CheckpointError(
            f"checkpoint {folder} was saved with --lora-rank and holds adapters alone; use it with --lora-rank, or "
            "merge it into the model with PEFT's merge_and_unload"
        )
    return folder / MODEL if is_trainer_checkpoint(folder) else folder


def hf_folder(folder: Path) -> Path:
    """Where the Hugging Face checkpoint is: in a checkpoint of ours, or the folder itself.

    Raises CheckpointError for a checkpoint of adapters, or in pieces.
    """
    found = model_folder(folder)
    if tensors_folder(found) is not None:
        raise CheckpointError(
            f"{folder} is a distributed checkpoint; make one of Hugging Face of it: "
            f"slimrl convert --to hf --input {folder} --output NEW"
        )
    return found


def critic_of(folder: Path) -> Path | None:
    """The critic's part of a checkpoint of ours, if it has one."""
    return folder / CRITIC if is_trainer_checkpoint(folder / CRITIC) else None


def save_checkpoint(
    folder: Path,
    *,
    weights: Iterable[tuple[str, Tensor]],
    optimizer: Iterable[tuple[str, Tensor]] | None,
    state: Mapping[str, Any],
    source: Path,
    dtype: torch.dtype,
    labels: Sequence[str] = (),
    adapter: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint into an existing folder; `source` gives config and tokenizer. trainer.json comes last.

    With PEFT's configuration of an `adapter` the weights are those of the adapters.
    """
    if adapter is None:
        save_hf_checkpoint(folder / MODEL, weights=weights, source=source, dtype=dtype, labels=labels)
    else:
        save_adapter(folder / ADAPTER, weights=weights, config=adapter)
    if optimizer is not None:
        write_tensors(folder / OPTIMIZER, optimizer)
    write_state(folder, state)


def save_hf_checkpoint(
    folder: Path,
    *,
    weights: Iterable[tuple[str, Tensor]],
    source: Path,
    dtype: torch.dtype,
    labels: Sequence[str] = (),
) -> None:
    """Write weights as a folder that transformers loads, with everything of `source` that is not weights.

    With labels it is a token classifier instead of a language model.
    """
    write_hf_config(folder, source=source, dtype=dtype, labels=labels)
    write_weights(folder, weights)


def write_hf_config(folder: Path, *, source: Path, dtype: torch.dtype, labels: Sequence[str] = ()) -> None:
    """Write everything of `source` that is not weights, for weights of that number format."""
    folder.mkdir(exist_ok=True)
    copy_all_but_weights(source, folder)
    config = read_config(source)
    # transformers loads in the format the config names
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    if labels:
        names = config.get("architectures", [])
        config["architectures"] = [name.replace("ForCausalLM", "ForTokenClassification") for name in names]
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_adapter(folder: Path, *, weights: Iterable[tuple[str, Tensor]], config: Mapping[str, Any]) -> None:
    """Write adapters as a folder that PEFT loads."""
    folder.mkdir(exist_ok=True)
    write_tensors(folder / ADAPTER_WEIGHTS, ((f"{PEFT_PREFIX}{name}", tensor) for name, tensor in weights))
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def copy_all_but_weights(source: Path, folder: Path) -> None:
    """Copy config, tokenizer and the like of a Hugging Face checkpoint into an existing folder."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja") and "index" not in file.name:
            shutil.copyfile(file, folder / file.name)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write trainer.json, which makes a folder a checkpoint."""
    (folder / TRAINER).write_text(json.dumps({"format": FORMAT, **state}))


def read_state(folder: Path) -> dict[str, Any]:
    """trainer.json; raises CheckpointError when it is damaged or of another format."""
    state = read_json(folder / TRAINER)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} has format {state.get('format')!r}, this version reads {FORMAT}; "
            f"its weights can still be used: --ref-load {folder / MODEL}"
        )
    return state


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face checkpoint; raises CheckpointError when there is none."""
    return read_json(folder / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """An object of a JSON file; raises CheckpointError when it is not there or not one."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError as e:
        raise CheckpointError(f"{file} is missing; {file.parent} is not a whole checkpoint") from e
    except json.JSONDecodeError as e:
        raise CheckpointError(f"{file} is damaged: {e}") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return content
