"""Option dataclasses by their type, as factories of plugins get them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Options(Mapping[type, Any]):  # Any: an instance of the key
    """Option dataclasses by their type: the configuration's own and those of plugins."""

    def __init__(self, instances: Iterable[object] = ()) -> None:
        self._by_type = {type(instance): instance for instance in instances}
        self._packed: dict[tuple[str, str], bytes] = {}

    def __getitem__(self, kind: type[T]) -> T:
        packed = self._packed.pop((kind.__module__, kind.__qualname__), None)
        if packed is not None:
            self._add(packed)
        try:
            return cast(T, self._by_type[kind])
        except KeyError:
            raise KeyError(
                f"no options of type {kind.__module__}.{kind.__qualname__}; return it from the hook slimrl_options"
            ) from None

    def __iter__(self) -> Iterator[type]:
        while self._packed:
            self._add(self._packed.popitem()[1])
        return iter(self._by_type)

    def __len__(self) -> int:
        return len(self._by_type) + len(self._packed)

    def __getstate__(self) -> dict[tuple[str, str], bytes]:
        packed = {(kind.__module__, kind.__qualname__): pickle.dumps(one) for kind, one in self._by_type.items()}
        return {**self._packed, **packed}

    def __setstate__(self, packed: dict[tuple[str, str], bytes]) -> None:
        # Unpacked when asked for: a reward's worker must not import the modules of every other plugin's options.
        self._by_type = {}
        self._packed = dict(packed)

    def _add(self, packed: bytes) -> None:
        instance: object = pickle.loads(packed)  # noqa: S301  # from the process that made this object
        self._by_type[type(instance)] = instance

    def of_plugins(self) -> list[object]:
        """The instances that are not slimrl's own configuration."""
        return [instance for kind, instance in self.items() if not kind.__module__.startswith("slimrl.config")]

    def with_defaults(self, option_types: Iterable[type]) -> Options:
        """The same, with a default instance of each type that is missing."""
        missing = [kind() for kind in option_types if kind not in self]
        return Options([*missing, *self.values()])
