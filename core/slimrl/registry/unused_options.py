"""Options of plugins that a command does not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from slimrl.registry.catalogue import Catalogue, Origin
from slimrl.registry.kinds import SPECS
from slimrl.registry.resolve import Resolved


def unused_options(catalogue: Catalogue, used: Sequence[Resolved], given: Mapping[str, str]) -> Iterator[str]:
    """What is to be said of options that nothing reads; `given` is what was said, by option with its spelling.

    An option is read if something that its entry point offers is used. Functions of slime's shape and factories of data
    sources are shown every option: beside one of those none is refused.
    """
    if any(one.shape == "slime" or one.kind == "data_source" for one in used):
        return
    entry_points = {(one.distribution, one.entry_point) for one in used if one.entry_point}
    modules = {one.module for one in used}
    owners: dict[str, list[Origin]] = {}
    for option in catalogue.options:
        for name in option.names:
            owners.setdefault(name, []).append(option.origin)
    for name, spelling in given.items():
        origins = owners.get(name, [])
        is_read = any((o.distribution, o.entry_point) in entry_points or o.module in modules for o in origins)
        if origins and not is_read:
            yield f"{spelling} has no effect: it is of plugin {origins[0]}, which is not used" + _ways(
                catalogue, origins[0]
            )


def _ways(catalogue: Catalogue, origin: Origin) -> str:
    """How what the plugin offers would be used."""
    offers = [f"{SPECS[o.kind].noun} {o.name}" for o in catalogue.offers if o.origin == origin]
    return f" (it offers {', '.join(offers)})" if offers else ""
