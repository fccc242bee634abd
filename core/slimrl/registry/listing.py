"""Everything that is installed as rows: what is there, what is not, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from slimrl.config.plugin_options import table_of
from slimrl.config.settings import Setting, settings
from slimrl.registry.catalogue import Catalogue, Offer, Origin
from slimrl.registry.kinds import KINDS, Kind

PluginStatus = Literal["ok", "conflict", "disabled", "broken"]


@dataclass(frozen=True)
class OptionRow:
    """One option of a plugin."""

    flag: str
    key: str
    table: str
    expects: str
    default: Any
    """A JSON value."""
    help: str


@dataclass(frozen=True)
class PluginRow:
    """One offered name, or an entry point that offers none because it is broken or disabled."""

    kind: Kind | None
    """None for an entry point that was not asked what it offers."""
    name: str
    """The offered name, else the entry point's."""
    qualified_name: str
    entry_point: str
    distribution: str
    version: str
    module: str
    status: PluginStatus
    reason: str
    """Why it cannot be used by its name alone; empty where it can."""
    options: tuple[OptionRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def rows(catalogue: Catalogue) -> list[PluginRow]:
    """One row for each offered name and for each entry point without one, by kind and name."""
    table = settings(catalogue.option_types)
    options: dict[Origin, tuple[OptionRow, ...]] = {}
    for option in catalogue.options:
        found = tuple(_option(table[field.name], table_of(option.kind)) for field in fields(option.kind))
        options[option.origin] = (*options.get(option.origin, ()), *found)
    result = [_offered(offer, catalogue, options.get(offer.origin, ())) for offer in catalogue.offers]
    offering = {offer.origin for offer in catalogue.offers}
    result += [
        _row(origin, None, origin.entry_point, "ok", "offers nothing by name", found)
        for origin, found in options.items()
        if origin not in offering
    ]
    for disabled in catalogue.disabled:
        name = disabled.name or disabled.origin.entry_point
        result.append(_row(disabled.origin, disabled.kind, name, "disabled", disabled.reason))
    result += [_row(p.origin, None, p.origin.entry_point, "broken", p.reason) for p in catalogue.broken]
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(result, key=lambda row: (order.get(row.kind or "", len(order)), row.name, row.distribution))


def _offered(offer: Offer, catalogue: Catalogue, options: tuple[OptionRow, ...]) -> PluginRow:
    others = [o for o in catalogue.offers if (o.kind, o.name) == (offer.kind, offer.name) and o is not offer]
    if not others:
        return _row(offer.origin, offer.kind, offer.name, "ok", "", options)
    told = ", ".join(str(other.origin) for other in others)
    same = any(other.qualified_name == offer.qualified_name for other in others)
    way_out = f"leave one out with -p no:{offer.origin.entry_point}" if same else f"write {offer.qualified_name}"
    return _row(offer.origin, offer.kind, offer.name, "conflict", f"also offered by {told}; {way_out}", options)


def _row(
    origin: Origin,
    kind: Kind | None,
    name: str,
    status: PluginStatus,
    reason: str,
    options: tuple[OptionRow, ...] = (),
) -> PluginRow:
    return PluginRow(
        kind=kind,
        name=name,
        qualified_name=f"{origin.distribution}/{name}",
        entry_point=origin.entry_point,
        distribution=origin.distribution,
        version=origin.version,
        module=origin.module,
        status=status,
        reason=reason,
        options=options,
    )


def _option(setting: Setting, table: str) -> OptionRow:
    default = setting.default
    if isinstance(default, tuple):
        default = [str(entry) if isinstance(entry, Path) else entry for entry in default]
    elif isinstance(default, Path):
        default = str(default)
    return OptionRow(setting.flag, setting.name, table, setting.expects, default, setting.help)
