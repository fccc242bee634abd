"""Which engines of a pool serve: the dead and the hung leave, and come back with the trainer's weights."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol

from slimrl.engines.health import HealthSettings, why_down
from slimrl.engines.member import Key, Member, OpenClient
from slimrl.errors import EngineError, EnginesLostError, EngineUnreachableError

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""To bring an engine back that dies again before it has served from one publication to the next."""
LONGEST_WAIT_S: Final = 5.0


class EngineCare(Protocol):
    """How a lost engine is made fit to serve again; both methods raise EngineError."""

    can_restart: bool
    """Whether `restart` starts engines; others have to come back by themselves."""

    async def restart(self, index: int) -> str:
        """Start the engine of this number anew; its URL."""
        ...

    async def send_weights(self, index: int, url: str) -> int:
        """Give it the trainer's weights; their version."""
        ...


class Rotation:
    """Takes engines that are lost out, has them brought back, and says when there is no hope left.

    Without `care` an engine that is lost stays lost. `on_change` is called when an engine comes back, and when no
    engine is left.
    """

    def __init__(
        self,
        urls: Sequence[str],
        open_client: OpenClient,
        care: EngineCare | None,
        health: HealthSettings,
        patience_s: float,
        on_event: Callable[..., None],
        on_change: Callable[[], None],
    ) -> None:
        self._open_client = open_client
        self._care = care
        self._health = health
        self._patience_s = patience_s
        self._event = on_event
        self._on_change = on_change
        self.members = [Member(index, open_client(url)) for index, url in enumerate(urls)]
        self.end: EnginesLostError | None = None
        """Why nothing will be generated any more."""
        self.version = 0
        """Of the weights that were last published."""
        self._is_publishing = False
        self._background: set[asyncio.Task[None]] = set()
        self._giving_up: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> list[Member]:
        """The engines that serve."""
        return [member for member in self.members if member.is_alive]

    def watch(self) -> None:
        """Begin to look for engines that hang: they keep their connections and never answer."""
        self._start(self._watch())

    async def close(self) -> None:
        """End what goes on, and the clients."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for member in self.members:
            await member.client.close()

    def publishing(self) -> None:
        """The engines are about to stand still for new weights: that they do not answer says nothing."""
        self._is_publishing = True

    def published(self, version: int, failed: Mapping[int, str]) -> None:
        """The engines have this version of the weights but for those that `failed`, by number with the reason."""
        self._is_publishing = False
        self.version = version
        for member in self.alive:
            if member.index in failed and member.version < version:
                self._lose(member, failed[member.index])
                continue
            member.version = version
            if member.served_since_publish:
                member.attempts = 0
            member.served_since_publish = True

    def serves(self, member: Member, key: Key) -> bool:
        """Whether an engine is still the one that it was, and in rotation."""
        return member.is_alive and member.key == key

    async def examine(self, member: Member, key: Key) -> bool:
        """Whether an engine that failed a request serves on; all requests that it failed wait for one answer."""
        if not self.serves(member, key):
            return False

        async def look() -> None:
            reason = await why_down(member.url, self._health.timeout_s)
            member.examination = None
            if reason and self.serves(member, key):
                self._lose(member, reason)

        if member.examination is None:
            member.examination = self._start(look())
        await asyncio.shield(member.examination)
        return self.serves(member, key)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._health.interval_s)
            await asyncio.gather(*(self._look(member) for member in self.alive if member.tasks))

    async def _look(self, member: Member) -> None:
        key = member.key
        reason = await why_down(member.url, self._health.timeout_s)
        if self._is_publishing or not self.serves(member, key):
            return
        member.strikes = member.strikes + 1 if reason else 0
        if member.strikes >= self._health.strikes:
            self._lose(member, reason)

    def _lose(self, member: Member, reason: str) -> None:
        logger.warning("%s is lost with %d requests in flight: %s", member, member.in_flight, reason)
        self._event("engine_lost", engine=member.index, url=member.url, reason=reason, in_flight=member.in_flight)
        member.lost = reason
        member.strikes = 0
        member.served_since_publish = False
        for task in member.tasks:
            task.cancel()
        if self._care is None:
            member.is_given_up = True
        else:
            self._start(self._bring_back(member, self._care))
        self._check_hope()

    async def _bring_back(self, member: Member, care: EngineCare) -> None:
        started, wait_s = time.monotonic(), 0.5
        while member.attempts < MAX_ATTEMPTS:
            try:
                url = member.url
                if not care.can_restart and (reason := await why_down(url, self._health.timeout_s)):
                    raise EngineUnreachableError(reason)
                member.is_reviving = True
                member.attempts += 1
                if care.can_restart:
                    url = await care.restart(member.index)
                # a publication that came between did not reach it
                while (version := await care.send_weights(member.index, url)) < self.version:
                    pass
            except EngineError as error:
                member.lost = str(error)
                logger.warning("%s is not back: %s", member, error)
            else:
                await self._return(member, url, version, time.monotonic() - started)
                return
            finally:
                member.is_reviving = False
            await asyncio.sleep(wait_s)  # what it died of may pass
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        member.is_given_up = True
        logger.error("%s is given up after %d attempts: %s", member, member.attempts, member.lost)
        self._event("engine_given_up", engine=member.index, attempts=member.attempts, reason=member.lost)
        self._check_hope()

    async def _return(self, member: Member, url: str, version: int, seconds: float) -> None:
        before = member.client
        member.revive(self._open_client(url), version)
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        logger.info("%s is back after %.1f s with weight version %d", member, seconds, version)
        self._event("engine_back", engine=member.index, url=url, weight_version=version, seconds=round(seconds, 1))
        self._on_change()
        with contextlib.suppress(EngineError):
            await before.close()

    def _check_hope(self) -> None:
        """With no engine in rotation requests wait: for one that is being brought back, and `patience_s` for others."""
        if self.end is not None or self.alive:
            return
        if all(member.is_given_up for member in self.members):
            self._give_up()
        elif self._giving_up is None:
            self._giving_up = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience)

    def _lose_patience(self) -> None:
        self._giving_up = None
        if any(member.is_reviving for member in self.members):
            self._check_hope()
        elif not self.alive:
            self._give_up()

    def _give_up(self) -> None:
        told = "; ".join(f"{member}: {member.lost}" for member in self.members)
        self.end = EnginesLostError(
            f"no engine is left to generate with ({told}); see to them, then go on from the last checkpoint with --load"
        )
        self._on_change()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:  # Any: what a coroutine is made of
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
