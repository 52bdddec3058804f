"""What may be under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed.http.limiter import Limiter


class Requests:
    """Requests that stay in flight until they are told to finish; watches what is admitted."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.admitted: list[int] = []
        self.in_flight: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    def come(self, texts: int) -> int:
        number = len(self._tasks)
        self._ends.append(asyncio.Event())
        self.waiting[number] = texts
        self._tasks.append(asyncio.create_task(self._fly(number, texts)))
        return number

    def finish(self, number: int) -> None:
        self._ends[number].set()

    def cancel(self, number: int) -> None:
        self._tasks[number].cancel()

    async def settle(self) -> None:
        for _ in range(4 + 2 * len(self.waiting)):
            await asyncio.sleep(0)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, number: int, texts: int) -> None:
        try:
            async with self.limiter.admitted(texts):
                del self.waiting[number]
                self._watch(number, texts)
                try:
                    await self._ends[number].wait()
                finally:
                    del self.in_flight[number]
        finally:
            self.waiting.pop(number, None)

    def _watch(self, number: int, texts: int) -> None:
        self.admitted.append(number)
        is_alone = not self.in_flight
        self.in_flight[number] = texts
        assert len(self.in_flight) <= self.limiter.limit
        permits = self.limiter.permits
        assert is_alone or permits is None or sum(self.in_flight.values()) <= permits

    def has_room(self, texts: int) -> bool:
        """The rule, by itself."""
        if not self.in_flight:
            return True
        permits = self.limiter.permits
        within = permits is None or sum(self.in_flight.values()) + texts <= permits
        return within and len(self.in_flight) < self.limiter.limit


def with_requests(
    maximum: int, permits: int | None, scenario: Callable[[Requests], Awaitable[None]]
) -> None:
    async def play() -> None:
        limiter = Limiter(maximum)
        limiter.permits = permits
        requests = Requests(limiter)
        try:
            await scenario(requests)
        finally:
            await requests.end()
        # Whatever happened, every place was given back.
        assert limiter._requests == 0
        assert limiter._texts == 0

    asyncio.run(play())


steps = st.lists(
    st.tuples(st.just("come"), st.integers(1, 8))
    | st.tuples(st.sampled_from(["finish", "cancel"]), st.integers(0, 30))
    | st.tuples(st.sampled_from(["succeeded", "overloaded"]), st.integers(1, 10)),
    max_size=30,
)


@settings(max_examples=60)
@given(st.integers(1, 5), st.none() | st.integers(1, 12), steps)
def test_who_has_room_is_in_flight_in_order_of_coming_and_nobody_else_is(maximum, permits, steps):
    async def scenario(requests: Requests) -> None:
        for what, number in steps:
            if what == "come":
                requests.come(number)
            elif what == "succeeded":
                for _ in range(number):
                    requests.limiter.succeeded()
            elif what == "overloaded":
                requests.limiter.overloaded(requests.limiter.halvings)
            else:
                either = sorted({*requests.in_flight, *requests.waiting})
                ready = sorted(requests.in_flight) if what == "finish" else either
                if ready:
                    getattr(requests, what)(ready[number % len(ready)])
            await requests.settle()
            assert 1 <= requests.limiter.limit <= maximum
            if requests.waiting:
                first = min(requests.waiting)
                assert not requests.has_room(requests.waiting[first])
        assert requests.admitted == sorted(requests.admitted)

    with_requests(maximum, permits, scenario)


def test_a_small_request_does_not_overtake_a_large_one():
    async def scenario(requests: Requests) -> None:
        first = requests.come(6)
        requests.come(8)
        requests.come(1)
        await requests.settle()
        assert requests.admitted == [0]
        requests.finish(first)
        await requests.settle()
        assert requests.admitted == [0, 1, 2]

    with_requests(8, 10, scenario)


def test_a_request_above_the_permits_goes_alone():
    async def scenario(requests: Requests) -> None:
        small, large, after = requests.come(1), requests.come(99), requests.come(1)
        await requests.settle()
        assert list(requests.in_flight) == [small]
        requests.finish(small)
        await requests.settle()
        assert list(requests.in_flight) == [large]
        requests.finish(large)
        await requests.settle()
        assert list(requests.in_flight) == [after]

    with_requests(8, 10, scenario)


@pytest.mark.parametrize("permits", [0, -1])
def test_a_server_without_permits_still_gets_one_request_at_a_time(permits):
    async def scenario(requests: Requests) -> None:
        first = requests.come(3)
        requests.come(3)
        await requests.settle()
        assert requests.admitted == [0]
        requests.finish(first)
        await requests.settle()
        assert requests.admitted == [0, 1]

    with_requests(8, permits, scenario)


@pytest.mark.parametrize(
    ("maximum", "limits"), [(8, [4, 2, 1, 1]), (5, [2, 1, 1]), (1, [1, 1]), (7, [3, 1, 1])]
)
def test_overload_halves_the_limit_down_to_one(maximum, limits):
    limiter = Limiter(maximum)
    seen = []
    for _ in limits:
        limiter.overloaded(limiter.halvings)
        seen.append(limiter.limit)
    assert seen == limits


def test_ten_successes_in_a_row_make_room_for_one_more_up_to_the_maximum():
    limiter = Limiter(4)
    limiter.overloaded(limiter.halvings)
    limits = []
    for _ in range(40):
        limiter.succeeded()
        limits.append(limiter.limit)
    assert limits == [2] * 9 + [3] * 10 + [4] * 21


def test_overload_interrupts_the_row_of_successes():
    limiter = Limiter(8)
    limiter.overloaded(limiter.halvings)
    for _ in range(9):
        limiter.succeeded()
    limiter.overloaded(limiter.halvings)
    for _ in range(9):
        limiter.succeeded()
    assert limiter.limit == 2
    limiter.succeeded()
    assert limiter.limit == 3


def test_who_waits_is_admitted_when_the_limit_grows():
    async def scenario(requests: Requests) -> None:
        requests.limiter.overloaded(requests.limiter.halvings)
        requests.come(1)
        requests.come(1)
        await requests.settle()
        assert requests.admitted == [0]
        for _ in range(10):
            requests.limiter.succeeded()
        await requests.settle()
        assert requests.admitted == [0, 1]

    with_requests(2, None, scenario)


def test_overload_ends_no_request_and_admits_none_until_few_enough_are_left():
    async def scenario(requests: Requests) -> None:
        for _ in range(5):
            requests.come(1)
        await requests.settle()
        assert requests.admitted == [0, 1, 2, 3]
        requests.limiter.overloaded(requests.limiter.halvings)
        for finished, admitted in [(0, 4), (1, 4), (2, 5)]:
            requests.finish(finished)
            await requests.settle()
            assert len(requests.admitted) == admitted

    with_requests(4, None, scenario)


def test_a_request_that_is_cancelled_in_flight_gives_its_place_back():
    async def scenario(requests: Requests) -> None:
        first = requests.come(1)
        requests.come(1)
        await requests.settle()
        requests.cancel(first)
        await requests.settle()
        assert requests.admitted == [0, 1]

    with_requests(1, None, scenario)


def test_a_request_that_is_cancelled_as_it_is_admitted_gives_its_place_back():
    async def scenario(requests: Requests) -> None:
        limiter = requests.limiter
        async with limiter.admitted(1):
            first = requests.come(1)
            second = requests.come(1)
            await requests.settle()
        requests.cancel(first)  # its turn has come, and it does not know yet
        await requests.settle()
        assert requests.admitted == [second]

    with_requests(1, None, scenario)


def test_a_request_that_fails_gives_its_place_back():
    async def play() -> None:
        limiter = Limiter(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with limiter.admitted(5):
                    raise ZeroDivisionError
        await asyncio.wait_for(limiter.admitted(5).__aenter__(), 5)

    asyncio.run(play())


def test_when_the_large_one_in_front_is_cancelled_the_small_ones_behind_it_go():
    async def scenario(requests: Requests) -> None:
        requests.come(5)
        large = requests.come(10)
        requests.come(5)
        await requests.settle()
        requests.cancel(large)
        await requests.settle()
        assert requests.admitted == [0, 2]

    with_requests(8, 10, scenario)


async def test_of_requests_in_flight_together_one_halves_the_limit():
    limiter = Limiter(8)
    async with limiter.admitted(1) as first, limiter.admitted(1) as second:
        limiter.overloaded(first)
        limiter.overloaded(second)
        assert limiter.limit == 4
    async with limiter.admitted(1) as later:
        limiter.overloaded(later)
        assert limiter.limit == 2
