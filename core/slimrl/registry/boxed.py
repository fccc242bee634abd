r"""The prefix `boxed_`: the same reward, shown only what stands in the reply's last `\boxed{...}`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from slimrl.boxed import last_boxed
from slimrl.protocols import Factory, PluginOptions
from slimrl.registry.adapt import copy_traits, is_async_callable
from slimrl.traits import traits_of
from slimrl.types import Sample

PREFIX: Final = "boxed_"


def without_prefix(name: str) -> str | None:
    """`math` for `boxed_math`, `dist/math` for `dist/boxed_math`: the prefix off once; None without it."""
    owner, slash, last = name.rpartition("/")
    inner = last.removeprefix(PREFIX)
    return f"{owner}{slash}{inner}" if inner and inner != last else None


def boxed(factory: Factory[Any]) -> Factory[Any]:  # Any: a reward of one sample or of a group
    """A factory of the same reward behind the prefix; it stays sync or async, and keeps its traits."""

    def make(options: PluginOptions) -> Any:
        reward = factory(options)
        return copy_traits(reward, _wrap(reward, is_group=traits_of(reward).group))

    return make


def _wrap(reward: Callable[[Any], Any], *, is_group: bool) -> Callable[[Any], Any]:
    show = _show_all if is_group else _show

    async def reward_async(given: Any) -> Any:
        return await reward(show(given))

    def reward_sync(given: Any) -> Any:
        return reward(show(given))

    wrapper: Any = reward_async if is_async_callable(reward) else reward_sync
    wrapper.__wrapped__ = reward  # its signature is the one to show
    return cast(Callable[[Any], Any], wrapper)


def _show(sample: Sample) -> Sample:
    return replace(sample, response=last_boxed(sample.response) or "")


def _show_all(samples: Sequence[Sample]) -> list[Sample]:
    return [_show(sample) for sample in samples]
