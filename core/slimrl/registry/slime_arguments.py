"""slime's flat `args`: every configuration field by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from slimrl.protocols import PluginOptions


class SlimeArguments:
    """Every configuration field by its name, read-only for whoever it is given to."""

    def __init__(self, options: PluginOptions) -> None:
        instances = options.values() if isinstance(options, Mapping) else ()
        self.__dict__["_values"] = {
            field.name: getattr(instance, field.name)
            for instance in instances
            if is_dataclass(instance)
            for field in fields(instance)
        }

    def __getattr__(self, name: str) -> Any:  # Any: as many types as there are flags
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"args.{name}: slimrl has no configuration field of this name") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"args.{name} cannot be set: the configuration is frozen")

    def __deepcopy__(self, memo: object) -> SlimeArguments:
        return self  # nobody can change it


def set_values(args: SlimeArguments, **values: object) -> None:
    """What slimrl itself adds to the arguments."""
    args.__dict__["_values"].update(values)


def router_of(engine: object) -> dict[str, object]:
    """slime's address of the engine, `sglang_router_ip` and `sglang_router_port`; nothing of an engine without one."""
    address = urlsplit(str(getattr(engine, "url", "")))
    if not address.hostname:
        return {}
    port = address.port or (443 if address.scheme == "https" else 80)
    return {"sglang_router_ip": address.hostname, "sglang_router_port": port}
