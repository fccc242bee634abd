"""A user's function: found by its reference, and called away from the event loop that generates."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from slimrl import SlimrlError, UsageError, load_target

Call = Callable[..., Awaitable[Any]]
"""Calls the function; awaited in any event loop, and given up where the caller is cancelled."""


def load_function(flag: str, reference: str) -> Callable[..., Any]:
    """What `pkg.mod:attr` or `path/to/file.py:attr` names; UsageError, which begins with the flag, where it is none."""
    _, found = load_target(reference, flag)
    if not callable(found):
        raise UsageError(f"{flag} {reference!r} is {found!r:.100}, no function")
    function: Callable[..., Any] = found
    return function


def outside(function: Callable[..., Any]) -> Call:
    """Calls that leave the caller's event loop free, whatever the function does.

    An async function runs on an event loop in a thread that all its calls share, so that they can share a client;
    any other in a thread for each call. One that is given up goes on in its thread until it ends by itself.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        loop = _Loop()
        return lambda *arguments, **named: loop.run(function(*arguments, **named))
    return lambda *arguments, **named: _in_thread(lambda: function(*arguments, **named))


class _Loop:
    """An event loop in a thread of its own, from the first call on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """What a coroutine returns; cancelling the future cancels it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="user-loop", daemon=True).start()
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_contained(work), self._loop))


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:  # they would end the loop of all others
        raise SlimrlError(_ended(error)) from error


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    def run() -> None:
        result: Any = None
        failed: Exception | None = None
        try:
            result = call()
        except StopIteration as error:  # no future can hold one
            failed = RuntimeError(f"StopIteration: {error}")
        except Exception as error:
            failed = error
        except BaseException as error:  # sys.exit in a function ends that call
            failed = SlimrlError(_ended(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name="user-function", daemon=True).start()
    return future


def _ended(error: BaseException) -> str:
    return f"it raised {type(error).__name__}: {error}"
