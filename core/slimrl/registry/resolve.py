"""One resolver for every reference to a plugin."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from slimrl.edge import last_line
from slimrl.errors import PluginError, SlimrlError
from slimrl.protocols import PluginOptions
from slimrl.registry.adapt import Shape, adapt
from slimrl.registry.boxed import PREFIX, boxed, without_prefix
from slimrl.registry.catalogue import Catalogue, Offer
from slimrl.registry.discover import discover, problems_of, warn_about
from slimrl.registry.fingerprint import source_hash
from slimrl.registry.kinds import SPECS, AnyKind
from slimrl.registry.legacy import well_known_name
from slimrl.registry.miss import conflict, miss
from slimrl.registry.selection import PluginSelection, canonical
from slimrl.target import absolute, is_file_reference, load_target
from slimrl.traits import traits_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """A reference and what it turned out to mean; `make` gives the object that the hot path holds."""

    kind: AnyKind
    reference: str
    """As given, with an absolute path: it means the same in another process on this machine."""
    name: str
    distribution: str | None
    """The installed package that offers it; None for a reference by path."""
    version: str | None
    file: Path | None
    file_hash: str
    shape: Shape
    is_async: bool | None
    """None for what a factory makes: known only once it is made."""
    entry_point: str | None
    is_group: bool
    """Whether a reward named by path is called with a whole group; what a factory makes says so itself (traits)."""
    factory: Callable[[PluginOptions], Any]  # what it makes depends on the kind
    module: str = ""
    """The module that `file` is, as this process knows it."""
    target: Any = None  # whatever a path names
    """The function itself, where a path names one."""

    def make(self, options: PluginOptions) -> Any:  # see factory
        """The plugin itself; PluginError when its factory fails."""
        try:
            return self.factory(options)
        except Exception as error:
            noun = SPECS[self.kind].noun
            reason = str(error) if isinstance(error, SlimrlError) else last_line(error)
            raise PluginError(f"{noun} {self.reference!r} cannot be made: {reason}") from error

    def lock_row(self) -> dict[str, object]:
        """Its entry in plugins.lock, as JSON values."""
        return {
            "kind": self.kind,
            "reference": self.reference,
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "file": None if self.file is None else str(self.file),
            "sha256": self.file_hash,
        }


@dataclass(frozen=True)
class Registry:
    """What installed packages offer, and the way from a reference to a plugin."""

    catalogue: Catalogue

    def resolve(self, kind: AnyKind, reference: str, *, group: bool = False) -> Resolved:
        """Resolve `name`, `distribution/name`, `pkg.mod:attr`, `pkg.mod.attr` or `path/to/file.py:attr`.

        `group`: a reward named by path is called with whole groups. slime's own well-known paths lead to ours.
        `boxed_name` is `name` shown only the last box of a reply. Raises PluginError.
        """
        reference = reference.strip()
        if not reference:
            raise PluginError(f"a {SPECS[kind].noun} is named by an empty reference; write a name or pkg.mod:attr")
        name = well_known_name(reference)
        if name is not None:
            logger.info("%s is slime's path; using %r of slimrl", reference, name)
            return self._offered(kind, name)
        if is_file_reference(reference) or ":" in reference:
            return self._by_path(kind, reference, group)
        is_name = "/" in reference or "." not in reference or reference.endswith(".py")
        if is_name or self.find(kind, reference) or self._find_boxed(kind, reference):
            return self._offered(kind, reference)
        return self._by_path(kind, reference, group)

    def find(self, kind: AnyKind, name: str) -> list[Offer]:
        """What is offered under exactly this name or `distribution/name`."""
        owner, slash, last = name.rpartition("/")
        return [
            offer
            for offer in self.catalogue.offers
            if offer.kind == kind
            and offer.name == last
            and (not slash or canonical(offer.origin.distribution) == canonical(owner))
        ]

    def _find_boxed(self, kind: AnyKind, name: str) -> list[Offer]:
        inner = without_prefix(name) if kind == "reward" else None
        return self.find(kind, inner) if inner else []

    def _offered(self, kind: AnyKind, name: str) -> Resolved:
        found = self.find(kind, name)
        prefix = "" if found else PREFIX
        if not found:
            found = self._find_boxed(kind, name)
        if not found:
            raise PluginError(miss(kind, name, self.catalogue))
        if len(found) > 1:
            raise PluginError(conflict(kind, name, found, prefix))
        offer = found[0]
        module, file_hash = _sources(offer)
        return Resolved(
            kind=kind,
            reference=f"{offer.origin.distribution}/{prefix}{offer.name}",
            name=f"{prefix}{offer.name}",
            distribution=offer.origin.distribution,
            version=offer.origin.version,
            file=_file(module),
            file_hash=file_hash,
            shape="factory",
            is_async=None,
            entry_point=offer.origin.entry_point,
            is_group=False,
            factory=boxed(offer.factory) if prefix else offer.factory,
            module=module.__name__,
        )

    def _by_path(self, kind: AnyKind, reference: str, group: bool) -> Resolved:
        reference = absolute(reference)
        module, target = load_target(reference, SPECS[kind].noun)
        adapted = adapt(kind, target, reference, group=group)
        return Resolved(
            kind=kind,
            reference=reference,
            name=reference.rpartition(":" if ":" in reference else ".")[2],
            distribution=None,
            version=None,
            file=_file(module),
            file_hash=_hash(module),
            shape=adapted.shape,
            is_async=adapted.is_async,
            entry_point=None,
            is_group=kind == "reward" and (group or traits_of(target).group),
            factory=adapted.bind,
            module=module.__name__,
            target=target,
        )


def load(
    entry_points: Collection[str] | None = None, *, selection: PluginSelection | None = None, warn: bool = True
) -> Registry:
    """Read what installed packages offer, or only the named entry points; broken ones are one warning each.

    Without a `selection`, SLIMRL_PLUGINS counts. PluginError when the selection asks for a plugin that is broken or
    not installed.
    """
    selection = PluginSelection.from_environment(os.environ) if selection is None else selection
    catalogue = discover(entry_points, selection)
    if warn:
        warn_about(catalogue)
    problems = problems_of(catalogue, selection) if entry_points is None else []
    if problems:
        raise PluginError(problems)
    return Registry(catalogue)


def _sources(offer: Offer) -> tuple[ModuleType, str]:
    """The module of an offer's factory, and a hash of its source and of the module that offers it."""
    function: Any = offer.factory
    while isinstance(function, functools.partial):
        function = function.func
    origin = sys.modules[offer.origin.module]
    module = sys.modules.get(getattr(function, "__module__", None) or "", origin)
    hashes = dict.fromkeys((_hash(module), _hash(origin)))  # one and the same where they share a package
    return module, "".join(hashes) if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file is not None and Path(file).is_file() else None


def _hash(module: ModuleType) -> str:
    file = _file(module)
    return "" if file is None else source_hash(file, is_in_package=bool(module.__package__))
