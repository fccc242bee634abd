"""What is said of a name that cannot be resolved: what was meant, what is there, and what is not and why."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from slimrl.registry.boxed import PREFIX, without_prefix
from slimrl.registry.catalogue import Catalogue, Offer, Origin
from slimrl.registry.kinds import SPECS, AnyKind
from slimrl.registry.selection import canonical

COMMON_WORDS = frozenset({"rl", "slimrl", "reward", "rewards", "filter", "generator", "advantage", "plugin", "plugins"})


def miss(kind: AnyKind, name: str, catalogue: Catalogue) -> str:
    """Why there is no plugin of this name; a broken or disabled one that may have been meant comes first."""
    spec = SPECS[kind]
    if name.endswith(".py"):
        return f"{spec.noun} {name!r} is a file; say which function in it: {name}:FUNCTION"
    if not spec.hook:
        return f"{spec.noun} {name!r} ({spec.flag}) is no reference; write pkg.mod:attr or path/to/file.py:attr"
    offers = [offer for offer in catalogue.offers if offer.kind == kind]
    head = f"there is no {spec.noun} {name!r}" + (f" ({spec.flag})" if spec.flag else "")
    meant = [f"plugin {p.origin} failed to load: {p.reason}" for p in catalogue.broken if _may_be(name, p.origin)]
    for plugin in catalogue.disabled:
        if plugin.name and name in (plugin.name, plugin.qualified_name):
            meant.append(f"{plugin.qualified_name} is {plugin.reason}")
        elif plugin.name is None and _may_be(name, plugin.origin):
            meant.append(f"plugin {plugin.origin} is {plugin.reason}")
    return "\n".join([head + _meant(meant, name, offers), *_rest(catalogue, offers)])


def conflict(kind: AnyKind, name: str, found: Collection[Offer], prefix: str = "") -> str:
    """Who offers the name, and how to say which is wanted; `prefix` stands before the offered name."""
    origins = " and ".join(str(offer.origin) for offer in found)
    said = f"{SPECS[kind].noun} {name!r} is offered by {origins}"
    qualified = list(dict.fromkeys(f"{offer.origin.distribution}/{prefix}{offer.name}" for offer in found))
    if len(qualified) == len(found):
        return f"{said}; write {' or '.join(qualified)}"
    ways_out = " or ".join(f"-p no:{offer.origin.distribution}/{offer.origin.entry_point}" for offer in found)
    return f"{said}, under one name in one distribution; leave one out with {ways_out}"


def _meant(meant: Collection[str], name: str, offers: Collection[Offer]) -> str:
    """The nearest name there is, and what may have been meant but is not there."""
    names = [offered for offer in offers for offered in (offer.name, offer.qualified_name)]
    if without_prefix(name):
        names += [PREFIX + offer.name for offer in offers]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.75 if meant else 0.5)
    said = f"; did you mean {close[0]!r}?" if close else ""
    if not meant:
        return said or "; did you mean one of those below, or is the package that offers it not installed here?"
    return f"{said or ':'} {'; '.join(meant)}"


def _rest(catalogue: Catalogue, offers: Collection[Offer]) -> list[str]:
    available = ", ".join(f"{offer.name} ({offer.origin.distribution})" for offer in offers)
    lines = [f"  failed to load: {plugin}" for plugin in catalogue.broken]
    lines += [f"  not loaded: {plugin}" for plugin in catalogue.disabled]
    return [*lines, f"  available: {available or 'none'}; or write pkg.mod:attr or path/to/file.py:attr"]


def _may_be(name: str, origin: Origin) -> bool:
    """Whether a plugin that was not asked what it offers may well offer this name: they share a telling word."""
    owner, slash, _ = name.rpartition("/")
    if slash:
        return canonical(owner) == canonical(origin.distribution)
    telling = _words(origin.entry_point, origin.distribution, origin.module) - COMMON_WORDS
    return bool(telling & _words(name))


def _words(*names: str) -> set[str]:
    return {word for name in names for word in re.split(r"[^a-z0-9]+", name.lower()) if word}
