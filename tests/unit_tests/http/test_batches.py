"""How texts are cut into requests, and what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed.errors import (
    AuthenticationError,
    EmbeddingError,
    InvalidInputError,
    InvalidResponseError,
)
from langchain_hfembed.http.batches import DEFAULT_BATCH_SIZE, BatchRun, Limits
from langchain_hfembed.http.failures import Failure, Refusal
from langchain_hfembed.http.replies import read_vectors
from langchain_hfembed.http.tei import text_bytes

# Cutting.

some_limits = st.builds(Limits, st.integers(1, 8), st.integers(1, 60))
some_sizes = st.lists(st.integers(1, 40), max_size=40)


@settings(max_examples=50)
@given(some_limits, some_sizes)
def test_every_position_is_in_one_batch_in_order(limits, sizes):
    order = sorted(range(len(sizes)), key=lambda position: -sizes[position])
    batches = list(limits.batches(order, sizes))
    assert [position for batch in batches for position in batch] == order
    assert all(batches)


@settings(max_examples=50)
@given(some_limits, some_sizes)
def test_a_batch_keeps_within_the_limits_unless_it_is_one_text(limits, sizes):
    for batch in limits.batches(range(len(sizes)), sizes):
        assert len(batch) <= limits.batch_size
        assert len(batch) == 1 or sum(sizes[i] for i in batch) <= limits.body_bytes


@settings(max_examples=50)
@given(some_limits, some_sizes)
def test_the_next_text_would_not_have_fitted(limits, sizes):
    batches = list(limits.batches(range(len(sizes)), sizes))
    for batch, following in pairwise(batches):
        more = [*batch, following[0]]
        is_full = len(more) > limits.batch_size
        assert is_full or sum(sizes[i] for i in more) > limits.body_bytes


def test_the_limits_are_cautious_where_the_server_tells_none():
    assert Limits() == Limits(batch_size=32, body_bytes=1_500_000)
    assert DEFAULT_BATCH_SIZE == 32
    assert [len(batch) for batch in Limits().batches(range(70), [9] * 70)] == [32, 32, 6]


# Sending.


def refused(kind="invalid", message="no", **details) -> Refusal:
    status = {"invalid": 422, "too_large": 413, "authentication": 401}.get(kind, 424)
    return Refusal(Failure(kind, status, message, **details))


Answer = Callable[[list[str]], Awaitable[list[str]]]


class Server:
    """Answers a text with its capitals, within limits of its own; records what it is sent."""

    def __init__(
        self,
        *,
        batch_limit: int | None = None,
        tells_batch_limit: bool = True,
        body_limit: int | None = None,
        poison: Sequence[str] = (),
        delay: Callable[[list[str]], int] = lambda texts: 0,
    ) -> None:
        self.batch_limit = batch_limit
        self.tells_batch_limit = tells_batch_limit
        self.body_limit = body_limit
        self.poison = poison
        self.delay = delay
        self.requests: list[list[str]] = []
        self.refusals = 0
        self.cancelled = 0
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, texts: list[str]) -> list[str]:
        self.requests.append(texts)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for _ in range(self.delay(texts)):
                await asyncio.sleep(0)
            return self._answer(texts)
        except Refusal:
            self.refusals += 1
            raise
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1

    def _answer(self, texts: list[str]) -> list[str]:
        if self.body_limit is not None and sum(map(text_bytes, texts)) > self.body_limit:
            raise refused("too_large")
        if self.batch_limit is not None and len(texts) > self.batch_limit:
            raise refused(batch_limit=self.batch_limit if self.tells_batch_limit else None)
        if any(text in self.poison for text in texts):
            raise refused(message="`inputs` cannot be empty")
        return [text.upper() for text in texts]


def gather(
    texts: Sequence[str], send: Answer, limits: Limits | None = None, concurrency: int = 3
) -> list[str]:
    run = BatchRun(texts, limits or Limits(), send)
    return asyncio.run(run.run(concurrency, "http://here", lambda count: None))


def numbered(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


some_texts = st.lists(st.text("abc", min_size=1, max_size=20), max_size=30)


@settings(max_examples=40)
@given(some_texts, some_limits, st.integers(1, 4), st.randoms(use_true_random=False))
def test_results_are_in_the_order_of_the_texts_whichever_request_ends_first(
    texts, limits, concurrency, random
):
    server = Server(delay=lambda _texts: random.randrange(6))
    assert gather(texts, server, limits, concurrency) == [text.upper() for text in texts]
    assert server.most_in_flight <= concurrency
    assert sum(map(len, server.requests)) == len(texts)
    for request in server.requests:
        assert len(request) <= limits.batch_size
        assert len(request) == 1 or sum(map(text_bytes, request)) <= limits.body_bytes


@settings(max_examples=40)
@given(some_texts.filter(bool), st.integers(1, 8), st.booleans(), st.integers(25, 60))
def test_whatever_the_servers_limits_every_text_gets_its_result(texts, limit, tells, body):
    server = Server(batch_limit=limit, tells_batch_limit=tells, body_limit=body)
    limits = Limits()
    assert gather(texts, server, limits) == [text.upper() for text in texts]
    # What was learned is never far below what the server takes.
    assert limits.batch_size in ({32, limit} if tells else {32})
    assert limits.body_bytes >= body // 2


@settings(max_examples=40)
@given(some_texts.filter(bool), st.data(), st.integers(1, 4))
def test_a_text_that_is_refused_is_found_and_nothing_else_is_blamed(texts, data, concurrency):
    poison = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=2))
    server = Server(poison=poison)
    run = BatchRun(texts, Limits(batch_size=7), server)
    with pytest.raises(InvalidInputError, match="cannot be empty") as caught:
        asyncio.run(run.run(concurrency, "http://here", lambda count: None))
    assert caught.value.indices
    assert {texts[i] for i in caught.value.indices} <= set(poison)
    assert all(run.results[i] == texts[i].upper() for i in run.results)
    assert not set(run.results) & set(caught.value.indices)


def test_no_text_sends_nothing():
    server = Server()
    assert gather([], server) == []
    assert server.requests == []


def test_the_longest_texts_go_first_and_equal_ones_in_order():
    server = Server()
    texts = ["aa", "b", "cccc", "dd", "eeee"]
    gather(texts, server, Limits(batch_size=2), concurrency=1)
    assert server.requests == [["cccc", "eeee"], ["aa", "dd"], ["b"]]


def test_long_means_bytes_not_characters():
    server = Server()
    gather(["aaaaa", "서울서"], server, Limits(batch_size=1), concurrency=1)
    assert server.requests == [["서울서"], ["aaaaa"]]


def test_concurrency_is_used():
    server = Server(delay=lambda texts: 5)
    gather(numbered(20), server, Limits(batch_size=2), concurrency=4)
    assert server.most_in_flight == 4


def test_progress_adds_up_to_the_number_of_texts_and_does_not_count_refusals():
    steps: list[int] = []
    run = BatchRun(numbered(20), Limits(), Server(batch_limit=8))
    asyncio.run(run.run(2, "http://here", steps.append))
    assert sorted(steps) == [4, 8, 8]


# Learning.


def test_a_batch_limit_that_is_told_is_learned_at_once():
    server, limits = Server(batch_limit=8), Limits()
    gather(numbered(64), server, limits, concurrency=1)
    assert limits.batch_size == 8
    assert [len(request) for request in server.requests] == [32] + [8] * 8


def test_what_was_queued_before_is_cut_to_the_limit_that_was_learned():
    """Three requests are under way as the first one is refused."""
    server, limits = Server(batch_limit=8), Limits()
    gather(numbered(200), server, limits, concurrency=3)
    assert [len(request) for request in server.requests].count(32) == 3
    assert max(len(request) for request in server.requests[3:]) == 8


def test_a_batch_limit_that_is_not_told_is_found_by_halving():
    server = Server(batch_limit=8, tells_batch_limit=False)
    assert len(gather(numbered(32), server, concurrency=1)) == 32
    assert [len(request) for request in server.requests] == [32, 16, 8, 8, 16, 8, 8]


@pytest.mark.parametrize("told", [0, 1])
def test_a_batch_limit_below_one_is_one(told):
    async def send(texts: list[str]) -> list[str]:
        if len(texts) > 1:
            raise refused(batch_limit=told)
        return texts

    limits = Limits()
    assert gather(numbered(3), send, limits) == numbered(3)
    assert limits.batch_size == 1


@pytest.mark.parametrize("told", [2, 3, 10**6])
def test_a_batch_limit_that_the_batch_keeps_is_not_believed(told):
    async def send(texts: list[str]) -> list[str]:
        if len(texts) > 1:
            raise refused(batch_limit=told)
        return texts

    limits = Limits()
    assert gather(["a", "b"], send, limits) == ["a", "b"]
    assert limits.batch_size == 32


def test_a_body_limit_is_found_by_halving_and_kept():
    texts = [f"{number:04}" + "x" * 93 for number in range(64)]  # 100 bytes each
    limits = Limits()
    server = Server(body_limit=1000)
    gather(texts, server, limits, concurrency=1)
    assert limits.body_bytes == 800
    assert [len(request) for request in server.requests] == [32, 16] + [8] * 8
    again = Server(body_limit=1000)
    gather(texts, again, limits, concurrency=1)
    assert again.refusals == 0


def test_a_text_that_is_too_long_does_not_teach_a_batch_limit():
    limits = Limits()
    with pytest.raises(InvalidInputError):
        gather(numbered(32), Server(poison=["text 5"]), limits)
    assert limits == Limits()


def test_one_text_that_is_larger_than_any_body_is_named():
    texts = ["short", "x" * 200, "short"]
    with pytest.raises(InvalidInputError, match="text 1: http://here answered 413") as caught:
        gather(texts, Server(body_limit=100))
    assert caught.value.indices == (1,)


# Failing.


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refused("authentication"), AuthenticationError),
        (refused("failed"), EmbeddingError),
        (EmbeddingError("no connection"), EmbeddingError),
        (InvalidResponseError("not JSON"), InvalidResponseError),
    ],
)
def test_a_failure_that_is_no_texts_fault_is_not_narrowed_down(failure, kind):
    requests = []

    async def send(texts: list[str]) -> list[str]:
        requests.append(texts)
        raise failure

    with pytest.raises(kind) as caught:
        gather(numbered(10), send, Limits(batch_size=4), concurrency=1)
    assert type(caught.value) is kind
    assert requests == [numbered(4)]
    assert caught.value.indices == (0, 1, 2, 3)


def test_a_fault_of_the_request_blames_no_text_and_is_not_narrowed_down():
    requests = []

    async def send(texts: list[str]) -> list[str]:
        requests.append(texts)
        raise refused(message="`prompt_name` x was not found", blames_request=True)

    with pytest.raises(InvalidInputError, match="prompt_name") as caught:
        gather(numbered(10), send, concurrency=1)
    assert caught.value.indices == ()
    assert len(requests) == 1


def test_positions_in_a_batch_become_positions_in_the_callers_list():
    async def send(texts: list[str]) -> list[str]:
        if "b" in texts:
            raise InvalidResponseError("null", indices=[texts.index("b")])
        return texts

    # By length: dddd ccc | aa b
    with pytest.raises(InvalidResponseError) as caught:
        gather(["b", "aa", "ccc", "dddd"], send, Limits(batch_size=2))
    assert caught.value.indices == (0,)


@pytest.mark.parametrize("surplus", [0, 1, 5])
def test_a_reply_that_numbers_more_vectors_than_texts_is_an_invalid_response(surplus):
    async def send(texts: list[str]) -> list[list[float]]:
        same = [{"index": 0, "embedding": [1.0]}] * (len(texts) + surplus)
        return read_vectors({"data": same}, len(texts))

    with pytest.raises(InvalidResponseError) as caught:
        gather(numbered(2), send)
    assert caught.value.indices == (0, 1)


class Doors:
    """Requests that wait, each for its own word."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self._words: dict[str, asyncio.Future[None]] = {}
        self.cancelled: list[str] = []

    async def __call__(self, texts: list[str]) -> list[str]:
        self.requests.append(texts)
        self._words[texts[0]] = asyncio.get_running_loop().create_future()
        try:
            await self._words[texts[0]]
        except asyncio.CancelledError:
            self.cancelled.append(texts[0])
            raise
        return [text.upper() for text in texts]

    async def open(self, text: str, failure: Exception | None = None) -> None:
        if failure is None:
            self._words[text].set_result(None)
        else:
            self._words[text].set_exception(failure)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


def start(texts: Sequence[str], doors: Doors, concurrency: int):
    run = BatchRun(texts, Limits(batch_size=1), doors)
    call = asyncio.create_task(run.run(concurrency, "http://here", lambda count: None))
    return run, call


async def test_after_a_failure_no_batch_starts_and_those_in_flight_finish():
    doors = Doors()
    run, call = start(["a", "b", "c", "d", "e"], doors, 3)
    await doors.settle()
    await doors.open("b", EmbeddingError("broken"))
    assert not call.done()
    await doors.open("a")
    assert not call.done()
    await doors.open("c")
    with pytest.raises(EmbeddingError, match="broken") as caught:
        await call
    assert doors.requests == [["a"], ["b"], ["c"]]
    assert run.results == {0: "A", 2: "C"}
    assert caught.value.indices == (1,)


async def test_the_first_failure_is_raised_with_the_positions_of_all_of_them():
    doors = Doors()
    run, call = start(["a", "b", "c", "d", "e"], doors, 4)
    await doors.settle()
    await doors.open("c", EmbeddingError("first"))
    await doors.open("d")
    await doors.open("a", AuthenticationError("second"))
    await doors.open("b", refused("too_large"))
    with pytest.raises(EmbeddingError, match="first") as caught:
        await call
    assert type(caught.value) is EmbeddingError
    assert caught.value.indices == (0, 1, 2)
    assert run.results == {3: "D"}


async def test_a_batch_that_is_refused_after_a_failure_is_not_sent_in_parts():
    doors = Doors()
    run = BatchRun(["aa", "bb", "c", "d"], Limits(batch_size=2), doors)
    call = asyncio.create_task(run.run(2, "http://here", lambda count: None))
    await doors.settle()
    await doors.open("aa", EmbeddingError("broken"))
    await doors.open("c", refused("too_large"))
    with pytest.raises(EmbeddingError, match="broken") as caught:
        await call
    assert doors.requests == [["aa", "bb"], ["c", "d"]]
    assert caught.value.indices == (0, 1)


async def test_cancelling_the_call_cancels_its_requests():
    doors = Doors()
    _, call = start(["a", "b", "c", "d"], doors, 3)
    await doors.settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await doors.settle()
    assert sorted(doors.cancelled) == ["a", "b", "c"]
    assert len(doors.requests) == 3


async def test_a_bug_is_not_taken_for_a_failure_and_ends_the_other_requests():
    doors = Doors()
    _, call = start(["a", "b", "c", "d"], doors, 3)
    await doors.settle()
    await doors.open("b", KeyError("bug"))
    with pytest.raises(KeyError, match="bug"):
        await call
    await doors.settle()
    assert sorted(doors.cancelled) == ["a", "c"]
    assert len(doors.requests) == 3


async def test_a_place_that_is_free_is_taken_without_waiting_for_the_others():
    doors = Doors()
    _, call = start(["a", "b", "c", "d"], doors, 2)
    await doors.settle()
    await doors.open("b")
    await doors.open("c")
    assert doors.requests == [["a"], ["b"], ["c"], ["d"]]
    await doors.open("d")
    await doors.open("a")
    assert await call == ["A", "B", "C", "D"]
