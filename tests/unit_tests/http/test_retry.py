"""The retry policy: how often, after how long, and for how long."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed.http import retry
from langchain_hfembed.http.retry import PassingFailure, RetryPolicy


class NoAnswerError(Exception):
    """What a user gets to see."""


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self._yield = asyncio.sleep

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await self._yield(0)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


class Script:
    """Fails as it is told, then succeeds; counts the attempts."""

    def __init__(self, *failures: Exception | dict, forever: bool = False) -> None:
        self._failures = failures
        self._forever = forever
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        assert self.attempts < 2000, "asks again and again"
        if self._forever:
            raise _failing(self._failures[0])
        if self.attempts <= len(self._failures):
            raise _failing(self._failures[self.attempts - 1])
        return "done"


def _failing(failure: Exception | dict) -> Exception:
    if isinstance(failure, Exception):
        return failure
    return PassingFailure(NoAnswerError("no answer"), **failure)


PASSING: dict = {}
STARTING = {"is_cold_start": True}


async def test_a_success_is_returned_and_sent_once(clock):
    attempt = Script()
    assert await RetryPolicy(5, 600).call(attempt, "http://here") == "done"
    assert attempt.attempts == 1
    assert clock.sleeps == []


@pytest.mark.parametrize("max_retries", [0, 1, 5])
async def test_retries_come_after_the_first_attempt(clock, max_retries):
    attempt = Script(PASSING, forever=True)
    with pytest.raises(NoAnswerError, match="no answer"):
        await RetryPolicy(max_retries, 600).call(attempt, "http://here")
    assert attempt.attempts == max_retries + 1
    assert len(clock.sleeps) == max_retries


@pytest.mark.parametrize("failures", [1, 3, 5])
async def test_a_success_at_the_last_retry_is_a_success(clock, failures):
    assert (
        await RetryPolicy(failures, 600).call(Script(*[PASSING] * failures), "http://here")
        == "done"
    )


async def test_what_does_not_pass_is_not_sent_again(clock):
    attempt = Script(PASSING, ValueError("wrong"), PASSING)
    with pytest.raises(ValueError, match="wrong"):
        await RetryPolicy(5, 600).call(attempt, "http://here")
    assert attempt.attempts == 2


async def test_the_last_failure_is_raised_and_keeps_its_cause(clock):
    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise PassingFailure(NoAnswerError(f"attempt {attempts}")) from OSError("refused")

    attempts = 0
    with pytest.raises(NoAnswerError, match="attempt 3") as caught:
        await RetryPolicy(2, 600).call(attempt, "http://here")
    assert isinstance(caught.value.__cause__, OSError)


async def test_waits_are_drawn_from_the_whole_range_up_to_a_bound_that_doubles_to_20_s(clock):
    runs = 200
    for _ in range(runs):
        with pytest.raises(NoAnswerError):
            await RetryPolicy(8, 600).call(Script(PASSING, forever=True), "http://here")
    for number, bound in enumerate([0.5, 1, 2, 4, 8, 16, 20, 20]):
        waits = clock.sleeps[number::8]
        assert len(waits) == runs
        assert min(waits) >= 0
        assert max(waits) <= bound
        # Full jitter: about a tenth of the waits lies in each tenth of the range.
        assert min(waits) < 0.1 * bound
        assert max(waits) > 0.9 * bound


@settings(max_examples=30)
@given(st.lists(st.floats(0, 120), max_size=5))
def test_what_the_server_asks_for_is_waited_and_at_most_20_s_of_jitter(waits):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "time", clock)
        patch.setattr(asyncio, "sleep", clock.sleep)
        asyncio.run(
            RetryPolicy(5, 600).call(Script(*[{"wait": wait} for wait in waits]), "http://here")
        )
    slept = list(zip(clock.sleeps, waits, strict=True))
    assert all(wait <= sleep <= wait + 20 for sleep, wait in slept)


# Cold starts.


async def test_a_start_is_waited_for_beyond_the_number_of_retries(clock):
    attempt = Script(*[STARTING] * 30)
    assert await RetryPolicy(1, 600).call(attempt, "http://here") == "done"
    assert attempt.attempts == 31


@pytest.mark.parametrize("cold_start_timeout", [1, 30, 600])
async def test_the_last_attempt_is_made_when_the_time_for_a_start_is_over(
    clock, cold_start_timeout
):
    began = clock.now
    with pytest.raises(NoAnswerError):
        await RetryPolicy(5, cold_start_timeout).call(Script(STARTING, forever=True), "http://here")
    assert clock.now - began == pytest.approx(cold_start_timeout)


async def test_a_wait_that_the_server_asks_for_does_not_outlast_the_time_for_a_start(clock):
    began = clock.now
    attempt = Script({"wait": 100, **STARTING}, forever=True)
    with pytest.raises(NoAnswerError):
        await RetryPolicy(5, 250).call(attempt, "http://here")
    assert clock.now - began == pytest.approx(250)
    assert clock.sleeps == pytest.approx([100, 100, 50], abs=5)


async def test_no_time_for_a_start_is_no_retry(clock):
    attempt = Script(STARTING, forever=True)
    with pytest.raises(NoAnswerError):
        await RetryPolicy(5, 0).call(attempt, "http://here")
    assert attempt.attempts == 1


async def test_max_retries_0_sends_once_even_while_the_endpoint_starts(clock, caplog):
    attempt = Script(STARTING, forever=True)
    with pytest.raises(NoAnswerError):
        await RetryPolicy(0, 600).call(attempt, "http://here")
    assert attempt.attempts == 1
    assert clock.sleeps == []
    assert caplog.messages == []


async def test_a_start_uses_up_no_retries_and_other_failures_no_time_for_it(clock):
    attempt = Script(STARTING, PASSING, STARTING, PASSING, STARTING, PASSING, forever=False)
    assert await RetryPolicy(3, 600).call(attempt, "http://here") == "done"
    with pytest.raises(NoAnswerError):
        await RetryPolicy(2, 600).call(
            Script(STARTING, PASSING, STARTING, PASSING, PASSING), "http://here"
        )


async def test_a_server_that_asks_for_no_wait_while_it_starts_is_not_asked_all_the_time(clock):
    """`Retry-After: 0`, or a date that has passed; the start takes minutes, and so do attempts."""
    attempt = Script({"wait": 0.0, **STARTING}, forever=True)
    with pytest.raises(NoAnswerError):
        await RetryPolicy(5, 60).call(attempt, "http://here")
    assert attempt.attempts < 600


def said(caplog):
    return [record for record in caplog.records if record.name == retry.logger.name]


async def test_many_calls_that_wait_for_one_start_say_so_in_one_line(clock, caplog):
    policy = RetryPolicy(5, 600)
    scripts = [Script(*[STARTING] * (number % 4)) for number in range(20)]
    await asyncio.gather(*[policy.call(script, "http://here") for script in scripts])
    [line] = said(caplog)
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "http://here is starting (no answer); waiting up to 600 s for it"


async def test_a_later_start_is_said_again(clock, caplog):
    policy = RetryPolicy(5, 600)
    for starts in range(1, 4):
        await asyncio.gather(*[policy.call(Script(STARTING), "http://here") for _ in range(3)])
        assert len(said(caplog)) == starts


async def test_a_start_that_failed_or_was_given_up_is_over(clock, caplog):
    policy = RetryPolicy(5, 10)
    with pytest.raises(NoAnswerError):
        await policy.call(Script(STARTING, forever=True), "http://here")
    with pytest.raises(ValueError, match="wrong"):
        await policy.call(Script(STARTING, ValueError("wrong")), "http://here")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def attempt() -> None:
        if asked.is_set():
            await go_on.wait()
        asked.set()
        raise PassingFailure(NoAnswerError(), is_cold_start=True)

    call = asyncio.create_task(policy.call(attempt, "http://here"))
    while policy._calls_waiting == 0:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await policy.call(Script(STARTING), "http://here")
    assert len(said(caplog)) == 4


async def test_a_call_without_a_start_says_nothing(clock, caplog):
    await RetryPolicy(5, 600).call(Script(PASSING, PASSING), "http://here")
    assert said(caplog) == []


async def test_two_endpoints_speak_for_themselves(clock, caplog):
    await asyncio.gather(
        *[RetryPolicy(5, 600).call(Script(STARTING), "http://here") for _ in range(2)]
    )
    assert len(said(caplog)) == 2
