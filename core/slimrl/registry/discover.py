"""Finding plugins in installed packages: the entry points of group `slimrl`, read through pluggy."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import pluggy

from slimrl import hookspecs
from slimrl.config import plugin_options
from slimrl.edge import importing, last_line
from slimrl.registry.catalogue import BrokenPlugin, Catalogue, DisabledPlugin, Offer, OptionType, Origin
from slimrl.registry.kinds import KIND_NAMES, KINDS, Kind
from slimrl.registry.selection import (
    ENVIRONMENT_VARIABLE,
    OWN_DISTRIBUTION,
    PluginSelection,
    canonical,
    names_plugin,
)

__all__ = ["BrokenPlugin", "Catalogue", "DisabledPlugin", "Offer", "Origin", "discover", "last_line", "warn_about"]

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "slimrl"


@dataclass
class _Found:
    offers: list[Offer] = field(default_factory=list)
    options: list[OptionType] = field(default_factory=list)


@dataclass
class _Names:
    """The names of options that are taken, and by whom."""

    owners: dict[str, str] = field(default_factory=plugin_options.core_settings)
    tables: set[str] = field(default_factory=plugin_options.core_tables)
    known: set[type] = field(default_factory=set)

    def take(self, options: Iterable[OptionType]) -> None:
        """Take the names of a plugin's options; TypeError, and none of them, when one is taken."""
        new = [option for option in options if option.kind not in self.known]
        for option in new:
            problem = plugin_options.clashes(option.kind, self.owners, self.tables)
            if problem:
                raise TypeError(f"{problem}; see `slimrl plugins`, and -p no:NAME to leave one out")
        for option in new:
            self.known.add(option.kind)
            self.tables.add(plugin_options.table_of(option.kind))
            for name in option.names:
                self.owners[name] = f"an option of plugin {option.origin}"


def discover(entry_points: Collection[str] | None = None, selection: PluginSelection | None = None) -> Catalogue:
    """Import every plugin module that is selected and ask it what it offers.

    With `entry_points`, exactly these are imported, whatever the selection. A plugin that cannot be imported or
    breaks a hook's contract is recorded with its reason; it is nobody's problem until somebody asks for it.
    """
    selection = selection or PluginSelection()
    offers: list[Offer] = []
    options: list[OptionType] = []
    broken: list[BrokenPlugin] = []
    disabled: list[DisabledPlugin] = []
    names = _Names() if entry_points is None else None
    for entry_point, origin in _installed():
        if entry_points is None:
            reason = selection.why_not(origin.entry_point, origin.distribution)
            if reason:
                disabled.append(DisabledPlugin(origin, reason))
                continue
        elif origin.entry_point not in entry_points:
            continue
        try:
            with importing(f"plugin {origin}"):
                found = _ask(entry_point.load(), origin)
            if names is not None:
                names.take(found.options)
        except Exception as error:  # a plugin's edge: whatever its import or its hooks raise is recorded
            broken.append(BrokenPlugin(origin, last_line(error)))
            continue
        options += found.options
        for offer in found.offers:
            reason = None if entry_points is not None else selection.why_not_offered(offer.name, origin.distribution)
            if reason:
                disabled.append(DisabledPlugin(origin, reason, offer.kind, offer.name))
            else:
                offers.append(offer)
    found_all = Catalogue(tuple(offers), tuple(options), tuple(broken), tuple(disabled))
    return found_all if entry_points is not None else found_all.with_notes(_notes(found_all, selection))


def warn_about(catalogue: Catalogue) -> None:
    """One line for each plugin that could not be loaded and for each thing the user should know."""
    for plugin in catalogue.broken:
        logger.warning("plugin %s is not available: %s", plugin.origin, plugin.reason)
    for note in catalogue.notes:
        logger.warning("%s", note)


def _installed() -> list[tuple[importlib.metadata.EntryPoint, Origin]]:
    """The entry points, slimrl's own first: where names clash, a stranger's package is the one to give way."""
    found = []
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution = entry_point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("unknown", "")
        found.append((entry_point, Origin(entry_point.name, entry_point.module, name, version)))
    return sorted(found, key=lambda pair: (canonical(pair[1].distribution) != OWN_DISTRIBUTION, pair[1].entry_point))


def problems_of(catalogue: Catalogue, selection: PluginSelection) -> list[str]:
    """What is wrong with the plugins that `-p NAME` or SLIMRL_PLUGINS ask for: they are broken, or not installed."""
    wanted = [b for b in catalogue.broken for word in selection.only if _matches(word, b.origin)]
    problems = [f"plugin {plugin.origin} was asked for and cannot be loaded: {plugin.reason}" for plugin in wanted]
    for word in selection.only:
        if not any(_matches(word, origin) for origin in catalogue.origins()):
            problems.append(f"-p {word} (or {ENVIRONMENT_VARIABLE}) names no installed plugin{_close(word, catalogue)}")
    return list(dict.fromkeys(problems))


def _notes(catalogue: Catalogue, selection: PluginSelection) -> list[str]:
    """What `-p no:NAME` names in vain, and distributions that are installed twice."""
    origins = catalogue.origins()
    left_out = {name for d in catalogue.disabled if d.name for name in (d.name, d.qualified_name)}
    notes = [
        f"-p no:{word} matches no installed plugin{_close(word, catalogue)}"
        for word in selection.disabled
        if word not in left_out and not any(_matches(word, origin) for origin in origins)
    ]
    for name in sorted({origin.distribution for origin in origins}):
        copies = {
            (str(found.locate_file("")), found.version)
            for found in importlib.metadata.Distribution.discover(name=name)
            if found.entry_points.select(group=ENTRY_POINT_GROUP)
        }
        if len(copies) > 1:
            told = " and ".join(f"{version} in {folder}" for folder, version in sorted(copies))
            notes.append(f"distribution {name} is installed {len(copies)} times ({told}); uninstall all but one")
    return notes


def _matches(word: str, origin: Origin) -> bool:
    return names_plugin(word, origin.entry_point, origin.distribution)


def _close(word: str, catalogue: Catalogue) -> str:
    names = {name for origin in catalogue.origins() for name in (origin.entry_point, origin.distribution)}
    names |= {offer.name for offer in catalogue.offers}
    close = difflib.get_close_matches(word, sorted(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


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
        for option_type in option_types:
            plugin_options.check_options(option_type)
            found.options.append(OptionType(option_type, origin))
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
