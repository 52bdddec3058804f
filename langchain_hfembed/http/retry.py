"""The one retry policy: which failures come again, after how long, and for how long."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

logger = logging.getLogger(__name__)

T = TypeVar("T")

_backoff = wait_random_exponential(multiplier=0.5, max=20)


class PassingFailure(Exception):  # noqa: N818 - internal, and says what it is
    """A request failed in a way that passes.

    Args:
        error: What to raise when there are no retries left.
        wait: Seconds that the server asks to wait.
        is_cold_start: Whether the model is being loaded.
    """

    def __init__(
        self, error: Exception, *, wait: float | None = None, is_cold_start: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.is_cold_start = is_cold_start


@dataclass
class RetryPolicy:
    """Full jitter from 0.5 s, doubling up to 20 s, or what the server asks for.

    Attributes:
        max_retries: Attempts after the first one; 0 sends once.
        cold_start_timeout: Seconds to wait for a model to be loaded, which costs no retries.

    Source:
        Full jitter: Brooker 2015, "Exponential Backoff and Jitter".
    """

    max_retries: int
    cold_start_timeout: float
    _calls_waiting: int = field(default=0, repr=False)  # for one and the same start

    async def call(self, attempt: Callable[[], Awaitable[T]], where: str) -> T:
        """Make attempts until one succeeds, or fails for good.

        Args:
            attempt: Sends once; raises PassingFailure where sending again may help.
            where: The URL or model, for the log.

        Raises:
            Exception: The last failure's error, when attempts or time have run out.
        """
        with self._settings(where) as settings:
            return await AsyncRetrying(**settings)(attempt)

    def call_blocking(self, attempt: Callable[[], T], where: str) -> T:
        """Like `call`, for a client that blocks the thread."""
        with self._settings(where) as settings:
            return Retrying(**settings)(attempt)

    @contextmanager
    def _settings(self, where: str) -> Iterator[dict[str, Any]]:
        """What tenacity is told for one call, within which its last failure becomes an error."""
        patience = _Patience(self, where)
        try:
            yield {
                "retry": retry_if_exception_type(PassingFailure),
                "wait": patience.wait,
                "stop": patience.is_over,
                "before_sleep": patience.log,
                "reraise": True,
            }
        except PassingFailure as failure:
            raise failure.error from failure.__cause__
        finally:
            if patience.start_deadline is not None:
                self._calls_waiting -= 1

    def await_start(self, where: str, failure: PassingFailure) -> float:
        """Begin to wait for a cold start, which is logged once however many calls wait for it.

        Args:
            where: The URL or model, for the log.
            failure: What was taken for a cold start, for the log.

        Returns:
            When to give up, in seconds of `time.monotonic()`.
        """
        self._calls_waiting += 1
        if self._calls_waiting == 1 and self.max_retries and self.cold_start_timeout:
            logger.warning(
                "%s is starting (%s); waiting up to %.0f s for it",
                where,
                failure,
                self.cold_start_timeout,
            )
        return time.monotonic() + self.cold_start_timeout


class _Patience:
    """What one request has left: a number of retries, and seconds for a cold start."""

    def __init__(self, policy: RetryPolicy, where: str) -> None:
        self._policy = policy
        self._where = where
        self._retries = 0
        self.start_deadline: float | None = None

    def is_over(self, state: RetryCallState) -> bool:
        if _failure(state).is_cold_start and self._policy.max_retries:
            return self._seconds_for_start(state) <= 0
        self._retries += 1
        return self._retries > self._policy.max_retries

    def wait(self, state: RetryCallState) -> float:
        failure = _failure(state)
        # With jitter on top of what the server asks for, since it asks all requests for the same.
        seconds = (failure.wait or 0.0) + _backoff(state)
        return min(seconds, self._seconds_for_start(state)) if failure.is_cold_start else seconds

    def log(self, state: RetryCallState) -> None:
        logger.debug(
            "%s: %s; next attempt in %.1f s", self._where, _failure(state), state.upcoming_sleep
        )

    def _seconds_for_start(self, state: RetryCallState) -> float:
        if self.start_deadline is None:
            self.start_deadline = self._policy.await_start(self._where, _failure(state))
        return max(0.0, self.start_deadline - time.monotonic())


def _failure(state: RetryCallState) -> PassingFailure:
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, PassingFailure)
    return failure
