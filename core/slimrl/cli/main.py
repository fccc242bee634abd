"""The command `slimrl`: finds the subcommand, and turns errors into a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from slimrl import __version__
from slimrl.errors import SlimrlError, UsageError

# Each is a module of this package with `main(argv) -> int`, imported only when it is asked for.
COMMANDS = {
    "train": "train a model with a reward",
    "config": "show every setting and where its value came from",
    "check": "run the conformance checks of a plugin",
    "new": "write a plugin distribution to start from",
    "plugins": "list the installed plugins, or tell everything of one",
    "model": "fetch a small model to try things with",
    "convert": "turn a Hugging Face checkpoint into a Megatron one, or back",
    "serve": "serve a model over HTTP with the embedded engine",
    "score": "score a file of responses with any reward",
    "eval": "evaluate a checkpoint by itself",
    "rescore": "score a finished run's samples with another reward",
    "replay": "compute the steps of a finished run again and compare",
}

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, 1 (it failed), 2 (it was asked wrongly) or 130 (interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except UsageError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return EXIT_USAGE
    except SlimrlError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader (`head`) has what it wanted; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except SystemExit as exit_:  # help was printed
        return exit_.code if isinstance(exit_.code, int) else EXIT_FAILED


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        sys.stdout.write(f"slimrl {__version__}\n")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        way_out = f"did you mean {close[0]}?" if close else f"there are: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {name!r}; {way_out}")
    result: int = importlib.import_module(f"slimrl.cli.{name}").main(rest)
    return result


def _help() -> str:
    lines = ["usage: slimrl COMMAND [FLAGS]", "", "commands:"]
    lines += [f"  {name:<8}{text}" for name, text in COMMANDS.items()]
    return "\n".join([*lines, "", "slimrl COMMAND --help shows its flags; slimrl --version the version.", ""])
