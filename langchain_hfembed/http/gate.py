"""What stands between a request and the network: it admits, times and retries, and judges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
    RateLimitError,
)
from langchain_hfembed.http.failures import Failure, Kind
from langchain_hfembed.http.limiter import Limiter
from langchain_hfembed.http.retry import PassingFailure, RetryPolicy

T = TypeVar("T")

_LONGEST_WAIT = 120.0  # seconds; who is asked for more is told so, and decides

_ERRORS: dict[Kind, tuple[type[EmbeddingError], str]] = {
    "authentication": (
        AuthenticationError,
        "Check that the token is valid and may use this model: https://hf.co/settings/tokens",
    ),
    "not_found": (ModelNotFoundError, "Check the model's name and the URL"),
    "rate_limit": (RateLimitError, "Lower max_concurrency, raise max_retries, or try later"),
    "cold_start": (
        ColdStartError,
        "The endpoint did not start in time: see its log, or raise cold_start_timeout",
    ),
    "unavailable": (EmbeddingError, "The server fails; see its log, or try later"),
    "too_large": (InvalidInputError, "It is larger than the server takes: split the text"),
    "invalid": (InvalidInputError, "The server does not take it: change it, or leave it out"),
    "failed": (EmbeddingError, "The server can't do this, however often it is asked; see its log"),
}
_PASSING: frozenset[Kind] = frozenset({"rate_limit", "cold_start", "unavailable"})


class Refusal(Exception):  # noqa: N818 - says what it is; no user meets it
    """A server answered, but not with success.

    Args:
        failure: What it said.
        detail: What else there is to know, in parentheses.
    """

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.detail = detail

    def as_error(self, where: str) -> EmbeddingError:
        """What a user gets to see of it.

        Args:
            where: The URL or model that was asked.
        """
        error, remedy = _ERRORS[self.failure.kind]
        said = f": {self.failure.message}" if self.failure.message else ""
        detail = f" ({self.detail})" if self.detail else ""
        return error(f"{where} answered {self.failure.status}{said}{detail}. {remedy}")


class Gate:
    """Lets requests through to one place, whoever sends them.

    Args:
        limiter: Admits them.
        policy: Decides on retries.
        timeout: Seconds that one request may take in all.
    """

    def __init__(self, limiter: Limiter, policy: RetryPolicy, timeout: float) -> None:
        self._limiter = limiter
        self._policy = policy
        self._timeout = timeout

    async def send(self, request: Callable[[], Awaitable[T]], where: str, *, texts: int = 0) -> T:
        """Send a request until it succeeds or fails for good.

        Args:
            request: Sends it once; raises Refusal or PassingFailure.
            where: The URL or model, for messages.
            texts: How many texts are in it.

        Raises:
            Refusal: If the server's last answer was no success.
            EmbeddingError: If there was none, or the server asks to wait for too long.
        """

        async def attempt() -> T:
            async with self._limiter.admitted(texts) as halvings:
                try:
                    result = await self.once(request, where)
                except Refusal as refusal:
                    if refusal.failure.kind == "rate_limit":
                        self._limiter.overloaded(halvings)
                    raise _judged(refusal, where) from None
                self._limiter.succeeded()
                return result

        return await self._policy.call(attempt)

    async def once(self, request: Callable[[], Awaitable[T]], where: str) -> T:
        """Send a request a single time, without waiting for anything but its answer.

        Raises:
            Refusal: If the server's answer was no success.
            PassingFailure: If there was no answer.
        """
        try:
            return await asyncio.wait_for(request(), self._timeout)
        except (asyncio.TimeoutError, TimeoutError) as error:  # two classes before Python 3.11
            raise PassingFailure(
                EndpointTimeoutError(
                    f"{where} did not answer within {self._timeout:g} s. Raise timeout, or lower "
                    "batch_size"
                )
            ) from error


def _judged(refusal: Refusal, where: str) -> Exception:
    """The refusal, or what makes it pass."""
    failure = refusal.failure
    if failure.kind not in _PASSING:
        return refusal
    if failure.wait is not None and failure.wait > _LONGEST_WAIT:
        return RateLimitError(
            f"{where} answered {failure.status} and asks to wait {failure.wait:.0f} s. Try again "
            f"after that; waits of up to {_LONGEST_WAIT:.0f} s are sat through"
        )
    return PassingFailure(refusal, wait=failure.wait, is_cold_start=failure.kind == "cold_start")
