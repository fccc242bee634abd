"""Each setting with its value and where that came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimrl.config import Config
from slimrl.config.settings import did_you_mean, flatten, settings
from slimrl.errors import ConfigError


@dataclass(frozen=True)
class Explained:
    """One setting as it stands."""

    key: str
    category: str
    value: Any
    """A JSON value; None where the setting is unset."""
    origin: str
    """'default', 'file PATH', 'flag' or 'derived'."""
    help: str

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def explain(
    config: Config, origins: Mapping[str, str], key: str | None = None, options: Sequence[object] = ()
) -> list[Explained]:
    """All settings in order, or the one that `key` names (spelt as a flag or as a key); raises ConfigError.

    `options` are instances of the plugins' dataclasses, whose settings come last.
    """
    table = settings([type(instance) for instance in options])
    values = flatten(config, options)
    if key is not None:
        name = key.removeprefix("--").replace("-", "_")
        if name not in table:
            raise ConfigError(f"unknown key {key!r}" + did_you_mean(name, table))
        table = {name: table[name]}
    return [
        Explained(name, setting.category, _json(values[name]), origins[name], setting.help)
        for name, setting in table.items()
    ]


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
