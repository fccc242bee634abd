"""Plain functions as plugins: the shape of a function is decided once, when its reference is resolved."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from slimrl.errors import PluginError
from slimrl.protocols import PluginOptions
from slimrl.registry import legacy
from slimrl.registry.kinds import KINDS, Kind

Shape = Literal["factory", "ours", "slime", "object"]
"""How a plugin is called: made by a hook's factory, our signature, slime's signature, or an object with methods."""

SLIME_FIRST_PARAMETERS = ("args", "_args", "_")


@dataclass(frozen=True)
class Adapted:
    """A function and how it becomes a plugin of its kind."""

    shape: Shape
    is_async: bool
    bind: Callable[[PluginOptions], Any]  # a factory of whatever the kind is


def is_async_callable(function: object) -> bool:
    """Whether calling it gives an awaitable: `async def`, also behind a partial or in `__call__`."""
    if inspect.iscoroutinefunction(function):
        return True
    if isinstance(function, functools.partial):
        return is_async_callable(function.func)
    return inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004  # not a callable test


def adapt(kind: Kind, target: Any, reference: str) -> Adapted:  # Any: whatever a user's reference names
    """Decide how `target` is called; PluginError says what it takes and what it should take."""
    if kind == "tracker":
        return _tracker(target, reference)
    spec = KINDS[kind]
    if inspect.isclass(target):
        raise PluginError(f"{spec.noun} {reference!r} is a class; name a function or an instance of it")
    if not callable(target):
        raise PluginError(f"{spec.noun} {reference!r} is {type(target).__name__}, not a function {spec.signature}")
    is_async = is_async_callable(target)
    if kind == "generator" and not is_async:
        raise PluginError(f"generator {reference!r} must be `async def`: it waits for the engine")
    if kind not in ("reward", "generator") and is_async:
        raise PluginError(f"{spec.noun} {reference!r} is `async def`, but it is called without a loop; make it `def`")
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # builtins without a signature: taken at their word
        return Adapted("ours", is_async, lambda options: target)
    if spec.slime_signature and _is_slime(signature):
        bind = legacy.bind_reward if kind == "reward" else legacy.bind_dynamic_filter
        return Adapted("slime", is_async, lambda options: bind(target, options, is_async))
    if _accepts(signature, spec.arity):
        return Adapted("ours", is_async, lambda options: target)
    also = f", or slime's {spec.slime_signature}" if spec.slime_signature else ""
    raise PluginError(f"{spec.noun} {reference!r} takes {signature}; a {spec.noun} takes {spec.signature}{also}")


def _tracker(target: Any, reference: str) -> Adapted:
    if inspect.isclass(target) or not all(callable(getattr(target, name, None)) for name in ("log", "close")):
        raise PluginError(f"tracker {reference!r} must be {KINDS['tracker'].signature}")
    return Adapted("object", False, lambda options: target)


def _is_slime(signature: inspect.Signature) -> bool:
    first = next(iter(signature.parameters.values()), None)
    return (
        first is not None
        and first.name in SLIME_FIRST_PARAMETERS
        and first.kind is not inspect.Parameter.VAR_POSITIONAL
        and _accepts(signature, 2)
    )


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
