"""How much may be under way at once: requests, by what the server bears, and texts in them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SUCCESSES_FOR_ONE_MORE = 10


class Limiter:
    """Admits requests in the order of their coming; lives on one event loop.

    The number of requests in flight is halved when the server says that it is overloaded, and
    grows by one after ten successes in a row, up to the maximum (additive increase,
    multiplicative decrease). Of requests that were in flight together, one halves it.

    Args:
        maximum: Requests in flight at most.

    Attributes:
        limit: Requests in flight at present, at most.
        halvings: How often it was halved.
        permits: Texts in flight at most; None for any number. One request is always admitted
            when nothing is in flight.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = maximum
        self.permits: int | None = None
        self._requests = 0
        self._texts = 0
        self._successes = 0
        self.halvings = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def admitted(self, texts: int) -> AsyncIterator[int]:
        """Wait until a request with so many texts may go out; it counts until the block ends.

        Yields:
            How often the limit had been halved when it went out, for `overloaded`.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled at the same moment
                self._leave(texts)
            else:
                self._admit()  # those behind it may fit
            raise
        try:
            yield self.halvings
        finally:
            self._leave(texts)

    def succeeded(self) -> None:
        """Take note of a success."""
        self._successes += 1
        if self._successes >= _SUCCESSES_FOR_ONE_MORE:
            self._successes = 0
            self.limit = min(self.maximum, self.limit + 1)
            self._admit()

    def overloaded(self, halvings: int) -> None:
        """Record a 429.

        Args:
            halvings: What `admitted` gave to the request; if the limit was halved since then, the
                server has not seen the effect yet.
        """
        self._successes = 0
        if halvings == self.halvings:
            self.halvings += 1
            self.limit = max(1, self.limit // 2)

    def _leave(self, texts: int) -> None:
        self._requests -= 1
        self._texts -= texts
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            texts, turn = self._waiting[0]
            if not turn.done() and not self._has_room(texts):
                return
            self._waiting.popleft()
            if not turn.done():
                self._requests += 1
                self._texts += texts
                turn.set_result(None)

    def _has_room(self, texts: int) -> bool:
        if not self._requests:
            return True
        within = self.permits is None or self._texts + texts <= self.permits
        return within and self._requests < self.limit
