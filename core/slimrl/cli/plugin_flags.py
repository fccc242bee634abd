"""The flags that choose among installed plugins, taken off a command line before the others are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from slimrl.errors import ConfigError
from slimrl.registry import Registry, Resolved, load
from slimrl.registry.selection import PluginSelection
from slimrl.registry.unused_options import unused_options

PLUGIN_FLAGS_HELP: Final = (
    "Plugins: -p no:NAME leaves one out (an entry point, a distribution, or distribution/name); "
    "--disable-plugin-autoload loads none but slimrl's own and those named by -p NAME or SLIMRL_PLUGINS=NAME,NAME."
)
"""For the help of a command that takes these flags."""


def take_plugin_flags(argv: Sequence[str]) -> tuple[PluginSelection, list[str]]:
    """The selection that `-p`, `--disable-plugin-autoload` and SLIMRL_PLUGINS make, and the other words.

    Raises ConfigError for a `-p` without a name.
    """
    names: list[str] = []
    rest: list[str] = []
    autoload = True
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "-p":
            if not words or words[0].startswith("-"):
                raise ConfigError("-p takes the name of a plugin: -p NAME or -p no:NAME")
            names.append(words.pop(0))
        elif word.startswith(("-pno:", "-p=")):
            names.append(word.removeprefix("-p").removeprefix("="))
        elif word.replace("_", "-") == "--disable-plugin-autoload":
            autoload = False
        else:
            rest.append(word)
    selection = PluginSelection.from_environment(os.environ)
    if not autoload:
        selection = PluginSelection(only=selection.only, autoload=False)
    return selection.with_names(names), rest


def check_options(registry: Registry, used: Sequence[Resolved], given: Mapping[str, str]) -> None:
    """Raise ConfigError for options, by name with their flag, of plugins that are not used."""
    if problems := list(unused_options(registry.catalogue, used, given)):
        raise ConfigError(problems)


def load_plugins(argv: Sequence[str]) -> tuple[Registry, list[str]]:
    """The installed plugins that a command line leaves in, and its other words.

    Modules are then also found in the folder the command is started in, as in training.
    """
    selection, rest = take_plugin_flags(argv)
    registry = load(selection=selection)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return registry, rest
