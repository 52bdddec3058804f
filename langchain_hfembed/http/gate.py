"""Sends one request: waits for a free slot, applies the timeout, retries temporary failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

import anyio

from langchain_hfembed.errors import EndpointTimeoutError, RateLimitError
from langchain_hfembed.http.failures import Kind, Refusal
from langchain_hfembed.http.limiter import Limiter
from langchain_hfembed.http.retry import PassingFailure, RetryPolicy

T = TypeVar("T")

_LONGEST_WAIT = 120.0  # seconds; who is asked for more is told so, and decides
_PASSING: frozenset[Kind] = frozenset({"rate_limit", "cold_start", "unavailable"})

is_stale: ContextVar[Callable[[], bool]] = ContextVar("is_stale", default=lambda: False)
"""Whether a request that waits for its turn should not be sent any more."""


class NotSent(Exception):  # noqa: N818 - internal, and says what it is
    """A request was not sent, because it had become stale while it waited for its turn."""


class Gate:
    """Sends requests to one endpoint; shared by all its callers.

    Args:
        limiter: Says when a request may go out.
        policy: Decides on retries.
        timeout: Seconds that one request may take in all.
    """

    def __init__(self, limiter: Limiter, policy: RetryPolicy, timeout: float) -> None:
        self._limiter = limiter
        self._policy = policy
        self._timeout = timeout

    def apart(self) -> Gate:
        """A gate like this one, whose requests are counted apart."""
        return Gate(Limiter(self._limiter.maximum), self._policy, self._timeout)

    async def send(self, request: Callable[[], Awaitable[T]], where: str, *, texts: int = 0) -> T:
        """Send a request until it succeeds or fails for good.

        Args:
            request: Sends it once; raises Refusal or PassingFailure.
            where: The URL or model, for messages.
            texts: How many texts are in it.

        Raises:
            Refusal: If the server's last answer was no success.
            NotSent: If it had become stale before it was its turn.
            EmbeddingError: If there was no answer, or the server asks to wait for too long.
        """
        is_new = True

        async def attempt() -> T:
            nonlocal is_new
            async with self._limiter.admitted(texts) as halvings:
                if is_new and is_stale.get()():
                    raise NotSent
                is_new = False
                try:
                    result = await self.once(request, where)
                except Refusal as refusal:
                    if refusal.failure.kind == "rate_limit":
                        self._limiter.overloaded(halvings)
                    raise _to_raise(refusal, where) from None
                self._limiter.succeeded()
                return result

        return await self._policy.call(attempt, where)

    async def once(self, request: Callable[[], Awaitable[T]], where: str) -> T:
        """Send a request a single time, without waiting for anything but its answer.

        Raises:
            Refusal: If the server's answer was no success.
            PassingFailure: If there was no answer.
        """
        try:
            with anyio.fail_after(self._timeout):
                return await request()
        except TimeoutError as error:
            raise PassingFailure(
                EndpointTimeoutError(
                    f"{where} did not answer within {self._timeout:g} s. Raise timeout, or lower "
                    "batch_size"
                )
            ) from error


def _to_raise(refusal: Refusal, where: str) -> Exception:
    """The exception to raise for a refusal."""
    failure = refusal.failure
    if failure.kind not in _PASSING:
        return refusal
    if failure.wait is not None and failure.wait > _LONGEST_WAIT:
        return RateLimitError(
            f"{where} answered {failure.status} and asks to wait {failure.wait:.0f} s. Try again "
            f"after that; waits of up to {_LONGEST_WAIT:.0f} s are handled automatically"
        )
    return PassingFailure(refusal, wait=failure.wait, is_cold_start=failure.kind == "cold_start")
