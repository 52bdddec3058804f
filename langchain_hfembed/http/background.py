"""One event loop in a thread of its own, on which all requests of a process run.

Sync and async callers differ in how they wait for it, and in nothing else; and since no client
ever leaves this loop, one object serves any number of threads and event loops.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class _Background:
    """A loop, and the thread that runs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="hfembed-http", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # this process has too many threads; later it may have fewer
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def owns(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is loop

    def forget(self) -> None:
        """Start again: a fork takes the loop along, but not the thread that runs it."""
        self._lock, self._loop = threading.Lock(), None


_background = _Background()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_background.forget)


def loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use."""
    return _background.loop


def owns(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the background loop, and not that of a process this one was forked from."""
    return _background.owns(loop)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop, and block until it is done."""
    future = _submit(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C ends the requests, too
        raise


async def arun(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop, and wait for it on the caller's."""
    return await asyncio.wrap_future(_submit(coroutine))


async def in_daemon_thread(function: Callable[..., T], *arguments: object) -> T:
    """Wait for a function that blocks, in a thread of its own.

    Who gives up waiting leaves the thread behind: it neither takes the place of another call nor
    keeps the interpreter from ending, as one of an executor's would.
    """
    future: Future[T] = Future()
    context = copy_context()  # in which a tracer may keep the span that this is a part of

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = context.run(function, *arguments)
        except BaseException as error:  # noqa: BLE001 - it is for the one who waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="hfembed-call", daemon=True).start()
    return await asyncio.wrap_future(future)


def _submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop())
    except BaseException:
        coroutine.close()
        raise
