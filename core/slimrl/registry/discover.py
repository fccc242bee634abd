"""Finding plugins in installed packages: the entry points of group `slimrl`, read through pluggy."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pluggy

from slimrl import hookspecs
from slimrl.protocols import PluginOptions
from slimrl.registry.kinds import KIND_NAMES, KINDS, Kind

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "slimrl"


@dataclass(frozen=True)
class Origin:
    """The entry point a plugin came from."""

    entry_point: str
    module: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.entry_point} ({self.distribution} {self.version}, {self.module})"


@dataclass(frozen=True)
class Offer:
    """One plugin offered under a name."""

    kind: Kind
    name: str
    factory: Callable[[PluginOptions], Any]  # what it makes depends on the kind
    origin: Origin

    @property
    def qualified_name(self) -> str:
        """`distribution/name`: unique where the name alone is not."""
        return f"{self.origin.distribution}/{self.name}"


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that could not be used, and why."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Catalogue:
    """Everything that installed packages offer."""

    offers: tuple[Offer, ...]
    option_types: tuple[type, ...]
    broken: tuple[BrokenPlugin, ...]


@dataclass
class _Found:
    offers: list[Offer] = field(default_factory=list)
    option_types: list[type] = field(default_factory=list)


def discover(entry_points: Collection[str] | None = None) -> Catalogue:
    """Import every plugin module (or only those of the named entry points) and ask it what it offers.

    A plugin that cannot be imported or breaks a hook's contract is recorded with its reason; it is nobody's
    problem until somebody asks for it.
    """
    offers: list[Offer] = []
    option_types: list[type] = []
    broken: list[BrokenPlugin] = []
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        if entry_points is not None and entry_point.name not in entry_points:
            continue
        distribution = entry_point.dist
        origin = Origin(
            entry_point.name,
            entry_point.module,
            distribution.name if distribution else "unknown",
            distribution.version if distribution else "",
        )
        try:
            found = _ask(entry_point.load(), origin)
        except Exception as error:  # a plugin's edge: whatever its import or its hooks raise is recorded
            broken.append(BrokenPlugin(origin, last_line(error)))
        else:
            offers += found.offers
            option_types += found.option_types
    return Catalogue(tuple(offers), tuple(option_types), tuple(broken))


def warn_about(broken: Collection[BrokenPlugin]) -> None:
    """One line for each plugin that could not be loaded."""
    for plugin in broken:
        logger.warning("plugin %s is not available: %s", plugin.origin, plugin.reason)


def last_line(error: BaseException) -> str:
    """The last line of a traceback and where it was raised."""
    message = traceback.format_exception_only(error)[-1].strip()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    if not frames or isinstance(error, SyntaxError):
        return message
    return f"{message} ({frames[-1].filename}:{frames[-1].lineno})"


def _ask(plugin: ModuleType, origin: Origin) -> _Found:
    # A manager for each plugin: one plugin's mistake is found alone, and what it offers is known to be its own.
    manager = pluggy.PluginManager("slimrl")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=origin.entry_point)
    known = [name for name in vars(hookspecs) if name.startswith("slimrl_")]
    for caller in manager.get_hookcallers(plugin) or []:
        if caller.name not in known:
            close = difflib.get_close_matches(caller.name, known, n=1)
            raise TypeError(f"there is no hook {caller.name}" + (f"; did you mean {close[0]}?" if close else ""))
    found = _Found()
    for kind in KIND_NAMES:
        for offered in getattr(manager.hook, KINDS[kind].hook)():
            found.offers += _offers(kind, offered, origin)
    for option_types in manager.hook.slimrl_options():
        found.option_types += option_types
    return found


def _offers(kind: Kind, offered: object, origin: Origin) -> list[Offer]:
    hook = KINDS[kind].hook
    if not isinstance(offered, Mapping):
        raise TypeError(f"{hook} returned {type(offered).__name__}, not a mapping from name to factory")
    for name, factory in offered.items():
        if not isinstance(name, str) or not name or any(c in "/:" or c.isspace() for c in name):
            raise ValueError(f"{hook} offers the name {name!r}; a name has no '/', ':' or blanks")
        if not callable(factory):
            raise TypeError(f"{hook} offers {name!r} as {type(factory).__name__}, not a factory (options) -> {kind}")
    return [Offer(kind, name, factory, origin) for name, factory in offered.items()]
