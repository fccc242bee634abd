"""Plain functions as plugins: the shape of a function is decided once, when its reference is resolved."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from slimrl.errors import PluginError
from slimrl.protocols import PluginOptions
from slimrl.registry import legacy, slime_generator, trl, verl
from slimrl.registry.kinds import KINDS, SPECS, AnyKind, KindSpec, Waits
from slimrl.traits import ATTRIBUTE, RewardTraits, traits_of

F = TypeVar("F", bound=Callable[..., Any])

Shape = Literal["factory", "ours", "slime", "trl", "verl", "object"]
"""How a plugin is called: made by a hook's factory, a function of our signature, slime's, TRL's or verl's, or an
object with methods."""

ARGS = ("args", "_args")
SLIME_FIRST_PARAMETERS = (*ARGS, "_")


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


def adapt(kind: AnyKind, target: Any, reference: str, *, group: bool = False) -> Adapted:  # Any: what a path names
    """Decide how `target` is called; PluginError says what it takes and what it should take.

    `group`: a reward is to be called with a whole group, and to return one outcome a sample in order.
    """
    if kind == "tracker":
        return _tracker(target, reference)
    spec = SPECS[kind]
    if inspect.isclass(target) and kind != "data_source":
        raise PluginError(f"{spec.noun} {reference!r} is a class; name a function or an instance of it")
    if not callable(target):
        raise PluginError(f"{spec.noun} {reference!r} is {type(target).__name__}, not a function {spec.signature}")
    is_async = is_async_callable(target)
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # builtins without a signature: taken at their word
        signature = None
    is_slime = signature is not None and spec.slime_signature != "" and _is_slime(kind, signature)
    _check_waiting(spec, spec.slime_waits if is_slime else spec.waits, is_async, reference)
    if signature is None:
        return Adapted("ours", is_async, lambda options: target)
    if kind == "reward":
        return _reward(target, signature, is_async, reference, group)
    if kind == "data_source":
        return _data_source(target, signature, reference)
    if is_slime and kind == "dynamic_filter":
        return Adapted("slime", is_async, lambda options: legacy.bind_dynamic_filter(target, options))
    if is_slime and kind == "buffer_filter":
        return Adapted("slime", is_async, lambda options: legacy.bind_buffer_filter(target, options))
    if is_slime and kind == "generator":
        return Adapted("slime", is_async, lambda options: slime_generator.bind(target, options, signature))
    if is_slime:
        return Adapted("slime", is_async, lambda options: target)
    if _accepts(signature, spec.arity) or (kind == "advantage" and _accepts(signature, 1)):
        return Adapted("ours", is_async, lambda options: target)
    also = f", or slime's {spec.slime_signature}" if spec.slime_signature else ""
    raise PluginError(f"{spec.noun} {reference!r} takes {signature}; a {spec.noun} takes {spec.signature}{also}")


def copy_traits(source: object, reward: F, *, key: str | None = None) -> F:
    """Give a function that wraps `source` the traits of it; `key` where they name no component."""
    traits = getattr(source, ATTRIBUTE, None)
    if not isinstance(traits, RewardTraits):
        traits = None if key is None else RewardTraits()
    if traits is not None:
        setattr(reward, ATTRIBUTE, replace(traits, key=traits.key or key))
    return reward


def _reward(target: Any, signature: inspect.Signature, is_async: bool, reference: str, group: bool) -> Adapted:
    group = group or traits_of(target).group
    if verl.is_verl(signature):
        if group:
            raise PluginError(
                f"reward {reference!r} has verl's shape {signature}, which scores one sample; it cannot be called with "
                f"a whole group (--group-rm)"
            )
        scored = copy_traits(target, verl.bind(target, signature, is_async, reference), key=verl.REWARD_KEY)
        return Adapted("verl", is_async, lambda options: scored)
    if _is_slime("reward", signature):
        bind = legacy.bind_group_reward if group else legacy.bind_reward
        return Adapted("slime", is_async, lambda options: copy_traits(target, bind(target, options, is_async)))
    if trl.is_trl(signature):
        listed = copy_traits(target, trl.bind(target, signature, is_async, group))
        return Adapted("trl", is_async, lambda options: listed)
    if _accepts(signature, KINDS["reward"].arity):
        return Adapted("ours", is_async, lambda options: target)
    ours, slime = ("(samples)", "(args, samples)") if group else ("(sample)", "(args, sample, **kwargs)")
    raise PluginError(
        f"reward {reference!r} takes {signature}; a reward takes {ours}, or slime's {slime}, or TRL's "
        f"(prompts, completions, **columns)"
        + ("" if group else ", or verl's (data_source, solution_str, ground_truth, extra_info)")
    )


def _tracker(target: Any, reference: str) -> Adapted:
    if inspect.isclass(target) or not all(callable(getattr(target, name, None)) for name in ("log", "close")):
        raise PluginError(f"tracker {reference!r} must be {KINDS['tracker'].signature}")
    return Adapted("object", False, lambda options: target)


def _check_waiting(spec: KindSpec, waits: Waits, is_async: bool, reference: str) -> None:
    if waits == "must" and not is_async:
        raise PluginError(f"{spec.noun} {reference!r} must be `async def`: it waits for the engine")
    if waits == "never" and is_async:
        raise PluginError(f"{spec.noun} {reference!r} is `async def`, but it is called without a loop; make it `def`")


def _data_source(target: Any, signature: inspect.Signature, reference: str) -> Adapted:
    """A factory of ours, or slime's class: the one takes `options`, the other `args`."""
    spec = SPECS["data_source"]
    if not _accepts(signature, 1):
        raise PluginError(
            f"{spec.noun} {reference!r} takes {signature}; a {spec.noun} is a function {spec.signature}, or slime's "
            f"{spec.slime_signature}"
        )
    is_slime = next(iter(signature.parameters.values())).name in ARGS or hasattr(target, "get_samples")
    methods = ("get_samples", "save", "load") if is_slime else ("take", "state", "restore")
    missing = [name for name in methods if inspect.isclass(target) and not callable(getattr(target, name, None))]
    if missing:
        raise PluginError(f"{spec.noun} {reference!r} has no {', '.join(missing)}; it needs {', '.join(methods)}")
    return Adapted("slime" if is_slime else "ours", False, lambda options: target)


def _is_slime(kind: AnyKind, signature: inspect.Signature) -> bool:
    """Whether a parameter stands where slime has its `args`, and slime's call fits."""
    spec = SPECS[kind]
    names = spec.slime_names
    place = names.index("args") if "args" in names else 0
    found = list(signature.parameters.values())[place : place + 1]
    return (
        bool(found)
        and found[0].name in (SLIME_FIRST_PARAMETERS if kind in KINDS else ARGS)
        and found[0].kind is not inspect.Parameter.VAR_POSITIONAL
        and (
            _accepts(signature, 1, spec.slime_keywords)
            if kind == "custom_tis"
            else _accepts(signature, max(len(names), 2), [n for n in spec.slime_keywords if n in signature.parameters])
        )
    )


def _accepts(signature: inspect.Signature, count: int, keywords: Sequence[str] = ()) -> bool:
    try:
        signature.bind(*[None] * count, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True
