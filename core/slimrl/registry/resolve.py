"""One resolver for every reference to a plugin."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from slimrl.errors import PluginError
from slimrl.protocols import PluginOptions
from slimrl.registry.adapt import Shape, adapt
from slimrl.registry.catalogue import Catalogue, Offer
from slimrl.registry.discover import discover, problems_of, warn_about
from slimrl.registry.edge import last_line
from slimrl.registry.fingerprint import source_hash
from slimrl.registry.kinds import KINDS, Kind
from slimrl.registry.legacy import well_known_name
from slimrl.registry.selection import PluginSelection
from slimrl.registry.target import absolute, is_file_reference, load_target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """A reference and what it turned out to mean; `make` gives the object that the hot path holds."""

    kind: Kind
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

    def make(self, options: PluginOptions) -> Any:  # see factory
        """The plugin itself; PluginError when its factory fails."""
        try:
            return self.factory(options)
        except Exception as error:
            noun = KINDS[self.kind].noun
            raise PluginError(f"{noun} {self.reference!r} cannot be made: {last_line(error)}") from error

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

    def resolve(self, kind: Kind, reference: str, *, group: bool = False) -> Resolved:
        """Resolve `name`, `distribution/name`, `pkg.mod:attr`, `pkg.mod.attr` or `path/to/file.py:attr`.

        `group`: a reward named by path is called with whole groups. slime's own well-known paths lead to ours.
        Raises PluginError.
        """
        name = well_known_name(reference)
        if name is not None:
            logger.info("%s is slime's path; using %r of slimrl", reference, name)
            return self._offered(kind, name)
        if is_file_reference(reference) or ":" in reference:
            return self._by_path(kind, reference, group)
        if "/" in reference or "." not in reference or reference.endswith(".py") or self._find(kind, reference):
            return self._offered(kind, reference)
        return self._by_path(kind, reference, group)

    def _find(self, kind: Kind, name: str) -> list[Offer]:
        return [o for o in self.catalogue.offers if o.kind == kind and name in (o.name, o.qualified_name)]

    def _offered(self, kind: Kind, name: str) -> Resolved:
        found = self._find(kind, name)
        if not found:
            raise PluginError(self._miss(kind, name))
        if len(found) > 1:
            raise PluginError(_conflict(kind, name, found))
        offer = found[0]
        # The factory may live in another module than the one that offers it; its source is what runs.
        module = sys.modules.get(getattr(offer.factory, "__module__", ""), None) or sys.modules[offer.origin.module]
        return Resolved(
            kind=kind,
            reference=offer.qualified_name,
            name=offer.name,
            distribution=offer.origin.distribution,
            version=offer.origin.version,
            **_source(module),
            shape="factory",
            is_async=None,
            entry_point=offer.origin.entry_point,
            is_group=False,
            factory=offer.factory,
        )

    def _by_path(self, kind: Kind, reference: str, group: bool) -> Resolved:
        reference = absolute(reference)
        module, target = load_target(reference, KINDS[kind].noun)
        adapted = adapt(kind, target, reference)
        return Resolved(
            kind=kind,
            reference=reference,
            name=reference.rpartition(":" if ":" in reference else ".")[2],
            distribution=None,
            version=None,
            **_source(module),
            shape=adapted.shape,
            is_async=adapted.is_async,
            entry_point=None,
            is_group=group and kind == "reward",
            factory=adapted.bind,
        )

    def _miss(self, kind: Kind, name: str) -> str:
        spec = KINDS[kind]
        offers = [offer for offer in self.catalogue.offers if offer.kind == kind]
        if name.endswith(".py"):
            return f"{spec.noun} {name!r} is a file; say which function in it: {name}:FUNCTION"
        names = [offer.name for offer in offers] + [offer.qualified_name for offer in offers]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        lines = [f"there is no {spec.noun} {name!r}" + (f" ({spec.flag})" if spec.flag else "")]
        lines[0] += f"; did you mean {close[0]!r}?" if close else ""
        available = ", ".join(f"{offer.name} ({offer.origin.distribution})" for offer in offers)
        lines.append(f"  available: {available or 'none'}; or write pkg.mod:attr or path/to/file.py:attr")
        lines += [f"  failed to load: {plugin}" for plugin in self.catalogue.broken]
        return "\n".join(lines)


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


def _conflict(kind: Kind, name: str, found: Collection[Offer]) -> str:
    origins = " and ".join(str(offer.origin) for offer in found)
    ways_out = " or ".join(dict.fromkeys(offer.qualified_name for offer in found))
    return f"{KINDS[kind].noun} {name!r} is offered by {origins}; write {ways_out}"


def _source(module: ModuleType) -> dict[str, Any]:  # two fields of Resolved
    file = getattr(module, "__file__", None)
    if file is None:
        return {"file": None, "file_hash": ""}
    path = Path(file).resolve()
    return {"file": path, "file_hash": source_hash(path, is_in_package=bool(module.__package__))}
