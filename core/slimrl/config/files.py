"""The files and folders that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimrl.config import Config
from slimrl.config.chat_template import check_template_of
from slimrl.config.eval_sets import eval_datasets, eval_sets
from slimrl.config.folders import cannot_be_made
from slimrl.config.hf_folder import HfFolder, open_hf_folder
from slimrl.config.lengths import Lengths
from slimrl.config.megatron_folder import tensors_folder
from slimrl.config.prompt_files import parse_prompt_file, parse_prompt_files
from slimrl.config.trained import ALL_LINEAR
from slimrl.errors import CheckpointError, ConfigError


def check_files(config: Config) -> Iterator[str]:
    """What of models, folders and prompt files is not there, or not what its flag wants."""
    ckpt = config.ckpt
    if ckpt.hf_checkpoint is not None:
        try:
            model = open_hf_folder(ckpt.hf_checkpoint, "--hf-checkpoint")
            found = [*_lengths(config, model), *check_template_of(model, config.rollout), *_names(config, model)]
        except CheckpointError as error:
            found = [str(error)]
        yield from found
    for flag, folder in (("--ref-load", ckpt.ref_load), ("--critic-load", ckpt.critic_load)):
        if folder is not None and not folder.is_dir():
            yield f"{flag} {folder} is not a folder; expected a Hugging Face checkpoint or one of slimrl"
        elif folder is not None and not _holds_weights(folder):
            yield f"{flag} {folder} holds no weights; expected a Hugging Face checkpoint, or one of slimrl or Megatron"
    for flag, folder in (("--load", ckpt.load), ("--save", ckpt.save), ("--run-dir", config.observe.run_dir)):
        if folder is not None and folder.exists() and not folder.is_dir():
            yield f"{flag} {folder} is a file; expected a folder"
        elif folder is not None and flag != "--load" and (said := cannot_be_made(folder)):
            yield f"{flag} {folder} cannot be made: {said}; name another folder"
    problems: list[str] = []
    specs = parse_prompt_files(config.rollout.prompt_data, problems)
    yield from problems
    for spec in specs:
        yield from _prompt_file("--prompt-data", spec.path)
    flag = "--eval-prompt-data" if config.eval.eval_config is None else "--eval-config"
    for name, path in eval_sets(config.eval):
        try:
            spec = parse_prompt_file(str(path), f"{flag} {name}", weighted=False)
        except ConfigError as error:
            yield from error.problems
        else:
            yield from _prompt_file(f"{flag} {name}", spec.path)


def _names(config: Config, model: HfFolder) -> Iterator[str]:
    """What of the model a setting names that it does not have."""
    targets, trained = set(config.trained.lora_target_modules) - {ALL_LINEAR}, config.trained
    if trained.lora_rank is not None and targets and (unknown := sorted(targets - model.adapted_names())):
        yield (
            f"--lora-target-modules: the model has no linear layer {', '.join(unknown)}; there are: "
            f"{', '.join(sorted(model.adapted_names()))}"
        )
    size = model.config.get("vocab_size")
    ids = config.rollout.rollout_stop_token_ids
    if isinstance(size, int) and (beyond := [token for token in ids if token >= size]):
        yield f"--rollout-stop-token-ids {beyond[0]} is no token of the model, whose ids are below {size}"


def _holds_weights(folder: Path) -> bool:
    of_slimrl = (folder / "model").is_dir() or (folder / "adapter").is_dir() or any(folder.glob("iter_*"))
    return of_slimrl or any(folder.glob("*.safetensors")) or tensors_folder(folder) is not None


def _prompt_file(flag: str, path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            with path.open("rb") as file:
                if file.read(4) != b"PAR1":
                    yield f"{flag} {path} is not a parquet file"
            return
        with path.open(encoding="utf-8") as file:
            beginning = file.read(4096)
    except UnicodeDecodeError:
        yield f"{flag} {path} is not text; expected a JSONL file (one JSON object a line, UTF-8)"
    except OSError as error:
        yield f"{flag} {path}: {error.strerror or error}"
    else:
        if not beginning:
            yield f"{flag} {path} is empty; expected one JSON object a line"


def _lengths(config: Config, model: HfFolder) -> Iterator[str]:
    rollout, own = config.rollout, config.eval
    sets = [None, *eval_datasets(own, [])]
    found = [Lengths.of_training(rollout), *(Lengths.of_evaluation(own, rollout, dataset) for dataset in sets)]
    for lengths in dict.fromkeys(found):
        yield from lengths.check(model.max_positions)
