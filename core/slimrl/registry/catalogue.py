"""What installed packages offer: names and their origins, what is broken, what is disabled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any

from slimrl.protocols import PluginOptions
from slimrl.registry.kinds import Kind


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
class OptionType:
    """A dataclass of options, and the plugin that declares it."""

    kind: type
    origin: Origin

    @property
    def names(self) -> tuple[str, ...]:
        """The options' names."""
        return tuple(field.name for field in fields(self.kind))


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that could not be used, and why."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class DisabledPlugin:
    """An entry point that was not imported, or one name of it that was left out, and why."""

    origin: Origin
    reason: str
    kind: Kind | None = None
    name: str | None = None

    @property
    def qualified_name(self) -> str:
        """`distribution/name`, where it is one name."""
        return f"{self.origin.distribution}/{self.name}"

    def __str__(self) -> str:
        return f"{self.name + ' of ' if self.name else ''}{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Catalogue:
    """Everything that installed packages offer."""

    offers: tuple[Offer, ...]
    options: tuple[OptionType, ...]
    broken: tuple[BrokenPlugin, ...]
    disabled: tuple[DisabledPlugin, ...] = ()
    notes: tuple[str, ...] = ()
    """What else the user should know, a line each."""

    @property
    def option_types(self) -> tuple[type, ...]:
        """The dataclasses of all plugins' options, each once."""
        return tuple(dict.fromkeys(option.kind for option in self.options))

    def origins(self) -> list[Origin]:
        """Every entry point, each once."""
        found = [offer.origin for offer in self.offers] + [option.origin for option in self.options]
        found += [plugin.origin for plugin in self.broken] + [plugin.origin for plugin in self.disabled]
        return list(dict.fromkeys(found))

    def with_notes(self, notes: Collection[str]) -> Catalogue:
        """The same with more to say."""
        return replace(self, notes=(*self.notes, *notes))
