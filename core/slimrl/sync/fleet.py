"""The engines that a trainer publishes to, and which of them the last publication did not reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from slimrl.errors import EngineError, EngineUnreachableError

if TYPE_CHECKING:
    import torch


class Way(Protocol):
    """A way for weights to reach engines."""

    def send(
        self, weights: Iterable[tuple[str, torch.Tensor]], version: int, urls: Mapping[int, str]
    ) -> Mapping[int, EngineError]:
        """Replace the weights of engines; returns what failed by number, raises EngineError when all did."""
        ...


class Fleet:
    """Implements WeightTransport for several engines.

    One that fails is left out of publications until `send_to` has brought it up to date; the others go on.
    """

    def __init__(self, urls: Sequence[str], way: Way) -> None:
        self._urls = dict(enumerate(urls))
        self._way = way
        self.left_out: dict[int, str] = {}
        """Why an engine has not the weights of the last publication, by number."""

    def publish(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights of all engines; EngineError when no engine took them, with the reason of each."""
        urls = {number: url for number, url in self._urls.items() if number not in self.left_out}
        if not urls:
            told = "; ".join(self.left_out.values())
            raise EngineUnreachableError(f"no engine is there to take weight version {version}: {told}")
        try:
            failed = self._way.send(weights, version, urls)
        except EngineError as error:
            self.left_out |= dict.fromkeys(urls, str(error))
            raise
        self.left_out |= {number: str(error) for number, error in failed.items()}

    def send_to(self, number: int, url: str, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights of one engine, which may have a new address; raises EngineError."""
        self._urls[number] = url
        self._way.send(weights, version, {number: url})
        self.left_out.pop(number, None)
