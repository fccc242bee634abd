"""Which installed plugins a command uses: all of them, all but some, or only some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimrl.errors import PluginError

ENVIRONMENT_VARIABLE = "SLIMRL_PLUGINS"
OWN_DISTRIBUTION = "slimrl"


def canonical(distribution: str) -> str:
    """A distribution's name as package indexes compare it: lower case, one dash for any run of `-`, `_` and `.`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@dataclass(frozen=True)
class PluginSelection:
    """Names of entry points (`acme`), distributions (`rl-reward-acme`), or both (`rl-reward-acme/acme`).

    What is disabled may also be one offered name (`math`, `rl-reward-acme/math`): that offer alone is left out.
    """

    disabled: tuple[str, ...] = ()
    """From `-p no:NAME`."""
    only: tuple[str, ...] = ()
    """From `-p NAME` and SLIMRL_PLUGINS: what is loaded although others are not."""
    autoload: bool = True
    """Whether what is not named is loaded. slimrl's own plugins are loaded even so, unless they are disabled."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> PluginSelection:
        """What SLIMRL_PLUGINS says: names separated by commas; set but empty, none but slimrl's own."""
        names = environment.get(ENVIRONMENT_VARIABLE)
        if names is None:
            return cls()
        return cls(only=tuple(name.strip() for name in names.split(",") if name.strip()), autoload=False)

    def with_names(self, names: Sequence[str]) -> PluginSelection:
        """The same after more of `-p`: `NAME` or `no:NAME`, where a later one takes back an earlier one."""
        disabled, only = list(self.disabled), list(self.only)
        for word in names:
            is_disabled = word.startswith("no:")
            name = word.removeprefix("no:").strip()
            if not name:
                raise PluginError(f"-p {word!r} names no plugin; write -p NAME or -p no:NAME")
            into, out_of = (disabled, only) if is_disabled else (only, disabled)
            out_of[:] = [other for other in out_of if other != name]
            if name not in into:
                into.append(name)
        return PluginSelection(tuple(disabled), tuple(only), self.autoload)

    def why_not(self, entry_point: str, distribution: str) -> str | None:
        """Why this entry point is not to be imported, and the way out; None if it is to be."""
        for name in self.disabled:
            if names_plugin(name, entry_point, distribution):
                return f"disabled by -p no:{name}; leave that out"
        is_own = canonical(distribution) == OWN_DISTRIBUTION
        if self.autoload or is_own or any(names_plugin(name, entry_point, distribution) for name in self.only):
            return None
        return (
            f"not among the plugins to load (--disable-plugin-autoload, {ENVIRONMENT_VARIABLE}); add -p {entry_point}"
        )

    def why_not_offered(self, name: str, distribution: str) -> str | None:
        """Why one offered name is left out, and the way out; None if it is not."""
        for word in self.disabled:
            if word == name or names_plugin(word, name, distribution, also_alone=False):
                return f"disabled by -p no:{word}; leave that out"
        return None


def names_plugin(word: str, entry_point: str, distribution: str, *, also_alone: bool = True) -> bool:
    """Whether `word` is the entry point, its distribution, or `distribution/entry point`."""
    owner, slash, name = word.rpartition("/")
    if slash:
        return canonical(owner) == canonical(distribution) and name == entry_point
    return also_alone and (word == entry_point or canonical(word) == canonical(distribution))
