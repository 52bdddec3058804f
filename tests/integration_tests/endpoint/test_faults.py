"""Whatever goes wrong, 1,000 texts come back whole and in order, or an error says which failed."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from typing import Any

import pytest

from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
    InvalidResponseError,
    ModelNotFoundError,
    RateLimitError,
)
from tests import tei_faults as faults
from tests.integration_tests.endpoint.helpers import (
    POSITION,
    TEXTS,
    VECTORS,
    Connect,
    Embed,
    outcome,
    positions,
    posts,
    sent_twice,
    vectors_at,
)
from tests.tei_faults import Entry, Fault, Script
from tests.tei_server import TEIServer

UNLUCKY = TEXTS[500]
NEVER_AGAIN = (400, 401, 403, 404, 413, 422, 424)


BATCH = 64
BATCHES = 16  # of 1,000 texts


def tei(**parameters: Any) -> TEIServer:
    """A server that takes twice as many texts a request as TEI's default: half the requests."""
    return TEIServer(max_client_batch_size=BATCH, **parameters)


def once(fault: Fault) -> Script:
    """Happens to the third and the fourth request."""
    return lambda number, entry: fault if number in (3, 4) else None


def whenever(text: str, fault: Fault) -> Script:
    """Happens to every request that holds this text."""
    return lambda number, entry: fault if text in entry.texts else None


def batch_of(text: str, server: TEIServer) -> set[int]:
    """Positions of what was sent together with a text."""
    return positions([entry for entry in posts(server) if text in entry.texts])


def succeeded(server: TEIServer, *, but: str = UNLUCKY) -> dict[int, list[float]]:
    """What `.completed` must be: all that was answered with 200, unless together with a text."""
    good = [entry for entry in posts(server) if entry.status == 200 and but not in entry.texts]
    return vectors_at(positions(good))


# What passes.

PASSING: dict[str, Fault] = {
    "429": faults.overloaded(),
    "429 without a body": faults.status(429),
    "429 with Retry-After": faults.status(429, headers={"Retry-After": "0.1"}),
    "429 of the Hub": faults.status(429, headers={"RateLimit": '"api";r=0;t=0'}),
    "408": faults.status(408),
    "500": faults.status(500, text="Internal Server Error"),
    "502": faults.unavailable(502),
    "503": faults.unavailable(503),
    "503 Unhealthy": faults.status(503, json={"error": "unwell", "error_type": "Unhealthy"}),
    "503 as a page": faults.html_page(503),
    "504": faults.status(504),
    "loading": faults.loading(),
    "loading as a 500": faults.status(500, json={"error": "Model x is currently loading"}),
    "reset": faults.reset(),
    "hang": faults.hang(2),
    "drip": faults.drip(2),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_costs_no_text_and_no_order(
    fault: Fault, connect: Connect, embed: Embed
) -> None:
    with tei(faults=once(fault)) as server:
        assert embed(connect(server, timeout=0.5), TEXTS) == VECTORS
        assert len(posts(server)) == BATCHES + 2


@pytest.mark.parametrize("code", [502, 503])
@pytest.mark.parametrize("routes", ["all", "POST"])
def test_a_cold_start_is_waited_for_and_said_in_one_line(
    code: int, routes: str, connect: Connect, embed: Embed, caplog: pytest.LogCaptureFixture
) -> None:
    starting = faults.starting(0.4, code)
    script: dict[str, Any] = {"gate": starting} if routes == "all" else {"faults": starting}
    with caplog.at_level(logging.INFO, "langchain_hfembed"), tei(**script) as server:
        assert embed(connect(server), TEXTS) == VECTORS
    lines = [r for r in caplog.records if r.name.startswith("langchain_hfembed")]
    assert [line.levelname for line in lines] == ["WARNING"]
    assert "starting" in lines[0].getMessage()
    assert "600 s" in lines[0].getMessage()


def test_a_second_cold_start_is_said_again(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with tei(faults=faults.starting(0.1)) as server:
        embeddings = connect(server)
        embeddings.embed_documents(TEXTS)
        server.faults = faults.starting(0.1)
        embeddings.embed_documents(TEXTS)
    assert sum("starting" in record.getMessage() for record in caplog.records) == 2


def test_a_cold_start_that_nobody_waits_for_is_not_announced(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with tei(faults=faults.starting(60)) as server, pytest.raises(ColdStartError):
        connect(server, cold_start_timeout=0).embed_documents(TEXTS)
    assert not caplog.records


def test_retry_after_is_waited_for(connect: Connect) -> None:
    limited = faults.status(429, headers={"Retry-After": "0.4"})
    with TEIServer(faults={1: limited}) as server:
        connect(server).embed_documents(["a"])
    first, second = posts(server)
    assert first.ended is not None
    assert second.started - first.ended >= 0.39


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "121"}, "121 s"),
        ({"Retry-After": "3600"}, "3600 s"),
        ({"RateLimit": '"api";r=0;t=300'}, "300 s"),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_who_is_asked_to_wait_longer_than_two_minutes_is_told_so_at_once(
    code: int, headers: dict[str, str], wait: str, connect: Connect, embed: Embed
) -> None:
    script = whenever(UNLUCKY, faults.status(code, headers=headers))
    with tei(faults=script) as server:
        started = time.monotonic()
        error = outcome(embed, connect(server))
        assert time.monotonic() - started < 5
    assert type(error) is RateLimitError
    assert wait in str(error)
    assert set(error.indices) == batch_of(UNLUCKY, server)
    assert error.completed == succeeded(server)
    assert sent_twice(posts(server)) == []


# What does not pass.

RETRIES_RUN_OUT: dict[str, tuple[Fault, type[EmbeddingError]]] = {
    "429": (faults.overloaded(), RateLimitError),
    "429 with Retry-After": (faults.status(429, headers={"Retry-After": "0"}), RateLimitError),
    "408": (faults.status(408), EmbeddingError),
    "500": (faults.status(500), EmbeddingError),
    "504": (faults.status(504), EmbeddingError),
    "503 Unhealthy": (
        faults.status(503, json={"error": "unwell", "error_type": "Unhealthy"}),
        EmbeddingError,
    ),
    "reset": (faults.reset(), EmbeddingError),
    "hang": (faults.hang(5), EndpointTimeoutError),
    "drip": (faults.drip(5), EndpointTimeoutError),
}


@pytest.mark.parametrize(("fault", "kind"), RETRIES_RUN_OUT.values(), ids=RETRIES_RUN_OUT)
def test_when_retries_run_out_the_rest_that_succeeded_is_kept(
    fault: Fault, kind: type[EmbeddingError], connect: Connect, embed: Embed
) -> None:
    with tei(faults=whenever(UNLUCKY, fault)) as server:
        error = outcome(embed, connect(server, max_retries=2, timeout=0.4))
    assert type(error) is kind
    assert server.url in str(error)
    assert set(error.indices) == batch_of(UNLUCKY, server)
    assert error.completed == succeeded(server)
    assert len(error.completed) > 100
    assert sum(UNLUCKY in entry.texts for entry in posts(server)) == 3


@pytest.mark.parametrize("fault", [faults.unavailable(502), faults.unavailable(), faults.loading()])
def test_when_the_time_for_a_cold_start_runs_out_the_rest_is_kept(
    fault: Fault, connect: Connect, embed: Embed
) -> None:
    with tei(faults=whenever(UNLUCKY, fault)) as server:
        error = outcome(embed, connect(server, max_retries=1, cold_start_timeout=0.3))
    assert type(error) is ColdStartError
    assert set(error.indices) == batch_of(UNLUCKY, server)
    assert error.completed == succeeded(server)
    assert sum(UNLUCKY in entry.texts for entry in posts(server)) > 3


FINAL: dict[str, tuple[Fault, type[EmbeddingError]]] = {
    "401": (faults.status(401), AuthenticationError),
    "403": (faults.status(403, json={"error": "Forbidden"}), AuthenticationError),
    "404": (faults.status(404), ModelNotFoundError),
    "424": (faults.status(424, json={"error": "x", "error_type": "Backend"}), EmbeddingError),
    "405": (faults.status(405), EmbeddingError),
    "415": (faults.status(415), EmbeddingError),
    "501": (faults.status(501), EmbeddingError),
    "Backend as a 500": (
        faults.status(500, json={"error": "CUDA", "error_type": "Backend"}),
        EmbeddingError,
    ),
    "page": (faults.html_page(), InvalidResponseError),
    "half of the JSON": (faults.truncated_json(), InvalidResponseError),
    "empty body": (faults.status(200), InvalidResponseError),
    "204": (faults.status(204), InvalidResponseError),
    "an object": (faults.status(200, json={"error": "no"}), InvalidResponseError),
    "a vector too few": (faults.vector_too_few(), InvalidResponseError),
    "a vector too many": (Fault(alter=lambda rows: [*rows, rows[0]]), InvalidResponseError),
    "token vectors": (faults.token_level(), InvalidResponseError),
    "token vectors in one": (
        Fault(alter=lambda rows: [[row] for row in rows]),
        InvalidResponseError,
    ),
    "empty vectors": (Fault(alter=lambda rows: [[] for _ in rows]), InvalidResponseError),
    "strings": (Fault(alter=lambda rows: [["0.5"] * 16 for _ in rows]), InvalidResponseError),
    "booleans": (Fault(alter=lambda rows: [[True] * 16 for _ in rows]), InvalidResponseError),
}


@pytest.mark.parametrize(("fault", "kind"), FINAL.values(), ids=FINAL)
def test_what_does_not_pass_names_the_texts_of_its_request_and_keeps_the_rest(
    fault: Fault, kind: type[EmbeddingError], connect: Connect, embed: Embed
) -> None:
    with tei(faults=whenever(UNLUCKY, fault)) as server:
        error = outcome(embed, connect(server))
    assert type(error) is kind
    assert set(error.indices) == batch_of(UNLUCKY, server)
    assert len(error.indices) == BATCH
    assert error.completed == succeeded(server)
    assert len(error.completed) > 100
    assert sent_twice(posts(server)) == []


ODD_ROWS: dict[str, tuple[Fault, str]] = {
    "null": (faults.null_in_vector(2), "null"),
    "NaN": (faults.nan_in_vector(2), "NaN"),
    "infinity": (
        Fault(alter=lambda rows: [*rows[:2], [float("inf"), *rows[2][1:]], *rows[3:]]),
        "infinity",
    ),
    "ragged": (faults.ragged(2), "one length"),
    "null in place of a vector": (
        Fault(alter=lambda rows: [*rows[:2], None, *rows[3:]]),
        "lists of numbers",
    ),
    "a number too large": (
        Fault(alter=lambda rows: [*rows[:2], [10**400, *rows[2][1:]], *rows[3:]]),
        "",
    ),
}


@pytest.mark.parametrize(("fault", "said"), ODD_ROWS.values(), ids=ODD_ROWS)
def test_a_vector_that_is_none_names_its_text_alone(
    fault: Fault, said: str, connect: Connect, embed: Embed
) -> None:
    with tei(faults=whenever(UNLUCKY, fault)) as server:
        error = outcome(embed, connect(server))
    [entry] = [entry for entry in posts(server) if UNLUCKY in entry.texts]
    assert type(error) is InvalidResponseError
    assert said in str(error)
    assert error.indices == (POSITION[entry.texts[2]],)
    # "No vector of it was used": the others of the reply are not trusted either.
    assert error.completed == succeeded(server)
    assert sent_twice(posts(server)) == []


def test_batches_of_two_dimensions_name_the_minority(connect: Connect, embed: Embed) -> None:
    shorter = Fault(alter=lambda rows: [row[:8] for row in rows])
    with tei(faults=whenever(UNLUCKY, shorter)) as server:
        error = outcome(embed, connect(server))
    assert type(error) is InvalidResponseError
    assert set(error.indices) == batch_of(UNLUCKY, server)
    assert error.completed == succeeded(server)
    assert len(error.completed) == 1000 - BATCH


# Refusals because of one text.

BLAMES_A_TEXT: dict[str, Fault] = {
    "400 Empty": faults.status(
        400, json={"error": "`inputs` cannot be empty", "error_type": "Empty"}
    ),
    "422 Validation": faults.status(422, json={"error": "too long", "error_type": "Validation"}),
    "413 Validation": faults.status(413, json={"error": "too long", "error_type": "Validation"}),
    "422 Tokenizer": faults.status(422, json={"error": "no token", "error_type": "Tokenizer"}),
    "bare 400": faults.status(400),
    "bare 413": faults.status(413),
    "bare 422": faults.status(422),
    "413 as a page": faults.html_page(413),
}


@pytest.mark.parametrize("fault", BLAMES_A_TEXT.values(), ids=BLAMES_A_TEXT)
def test_a_refusal_because_of_one_text_among_1000_is_narrowed_down_to_it(
    fault: Fault, connect: Connect, embed: Embed
) -> None:
    with tei(faults=whenever(UNLUCKY, fault)) as server:
        error = outcome(embed, connect(server))
    assert type(error) is InvalidInputError
    assert isinstance(error, ValueError)
    assert error.indices == (500,)
    assert "text 500" in str(error)
    assert error.completed == succeeded(server)
    assert len(error.completed) > 100
    assert sent_twice(posts(server)) == []


@pytest.mark.parametrize("version", ["1.8.3", "1.9.3"])
def test_one_text_that_is_too_long_among_1000_is_named(
    version: str, connect: Connect, embed: Embed
) -> None:
    texts = [*TEXTS[:700], "word " * 600, *TEXTS[700:999]]
    with tei(version=version, auto_truncate=False) as server:
        error = outcome(embed, connect(server), texts)
    assert type(error) is InvalidInputError
    assert error.indices == (700,)
    assert "Given: 600" in str(error)
    statuses = {entry.status for entry in posts(server)}
    assert statuses == {200, 413 if version < "1.9" else 422}
    good = {text for entry in posts(server) if entry.status == 200 for text in entry.texts}
    wanted = {i: text for i, text in enumerate(texts) if text in good}
    assert error.completed == {i: VECTORS[POSITION[text]] for i, text in wanted.items()}
    assert sent_twice(posts(server)) == []


@pytest.mark.parametrize("version", ["1.8.3", "1.9.3"])
@pytest.mark.parametrize("has_info", [True, False])
def test_both_versions_of_tei_serve_1000_texts_in_small_batches(
    version: str, has_info: bool, connect: Connect, embed: Embed
) -> None:
    with TEIServer(version=version, has_info=has_info, max_client_batch_size=15) as server:
        assert embed(connect(server), TEXTS) == VECTORS
    assert sent_twice(posts(server)) == []


@pytest.mark.parametrize("version", ["1.8.3", "1.9.3"])
@pytest.mark.parametrize("prompts", [{}, {"query": "query: "}])
def test_an_unknown_prompt_name_blames_no_text(
    version: str, prompts: dict[str, str], connect: Connect, embed: Embed
) -> None:
    with tei(version=version, prompts=prompts) as server:
        error = outcome(embed, connect(server, document_prompt_name="passage"))
    assert type(error) is InvalidInputError
    assert "passage" in str(error)
    assert (error.indices, error.completed) == ((), {})
    assert len(posts(server)) <= 8
    assert sent_twice(posts(server)) == []


def test_dimensions_the_model_does_not_have_blame_no_text(connect: Connect, embed: Embed) -> None:
    with TEIServer() as server:
        error = outcome(embed, connect(server, dimensions=17))
    assert type(error) is InvalidInputError
    assert "dimension" in str(error)
    assert error.indices == ()
    assert sent_twice(posts(server)) == []


@pytest.mark.parametrize("limit", [1_000, 5_000])
def test_a_body_that_is_too_large_is_sent_in_parts(
    limit: int, connect: Connect, embed: Embed
) -> None:
    with tei(payload_limit=limit) as server:
        assert embed(connect(server), TEXTS) == VECTORS
    assert 413 in {entry.status for entry in posts(server)} or limit == 5_000
    assert sent_twice(posts(server)) == []


def test_a_text_larger_than_the_server_takes_is_named(connect: Connect, embed: Embed) -> None:
    texts = [*TEXTS[:10], "x" * 20_000, *TEXTS[10:20]]
    with TEIServer(payload_limit=10_000) as server:
        error = outcome(embed, connect(server), texts)
    assert type(error) is InvalidInputError
    assert error.indices == (10,)
    assert sent_twice(posts(server)) == []


# What holds for all of them.


@pytest.mark.parametrize("code", NEVER_AGAIN)
@pytest.mark.parametrize("body", ["none", "page", "TEI's", "Retry-After"])
def test_never_the_same_request_again_after_a_final_status(
    code: int, body: str, connect: Connect, embed: Embed
) -> None:
    fault = {
        "none": faults.status(code),
        "page": faults.html_page(code),
        "TEI's": faults.status(code, json={"error": "no", "error_type": "Unknown"}),
        "Retry-After": faults.status(code, headers={"Retry-After": "0"}, json={"error": "no"}),
    }[body]
    with TEIServer(faults=lambda number, entry: fault) as server:
        error = outcome(embed, connect(server, batch_size=8), TEXTS[:50])
    assert isinstance(error, EmbeddingError)
    assert error.completed == {}
    assert sent_twice(posts(server)) == []


@pytest.mark.parametrize(
    ("fault", "others_sent"),
    # A reply with success is read after its slot is free, so that one more request goes out.
    [(faults.status(401), 7), (faults.status(500), 7), (faults.html_page(), 8)],
)
def test_after_a_failure_no_new_batch_starts_and_those_in_flight_finish(
    fault: Fault, others_sent: int, connect: Connect, embed: Embed
) -> None:
    with tei(latency=0.3, faults={1: fault}) as server:
        error = outcome(embed, connect(server, max_retries=0))
    assert isinstance(error, EmbeddingError)
    first, *others = posts(server)
    assert len(others) == others_sent
    assert set(error.indices) == positions([first])
    assert error.completed == vectors_at(positions(others))


def test_several_failures_at_once_name_all_their_texts(connect: Connect, embed: Embed) -> None:
    fail = faults.status(424, json={"error": "x", "error_type": "Backend"})
    slow = Fault(reply=fail.reply, delay=0.2)
    with tei(latency=0.3, faults={2: slow, 5: slow}) as server:
        error = outcome(embed, connect(server))
    assert isinstance(error, EmbeddingError)
    failed = [entry for entry in posts(server) if entry.status == 424]
    assert len(failed) == 2
    assert set(error.indices) == positions(failed)
    assert list(error.indices) == sorted(error.indices)
    assert len(error.completed) == 6 * BATCH


def test_a_server_that_is_gone_is_named_after_retries(connect: Connect, embed: Embed) -> None:
    with TEIServer() as server:
        embeddings = connect(server, max_retries=2)
    error = outcome(embed, embeddings)
    assert type(error) is EmbeddingError
    assert server.url in str(error)
    assert (error.indices, error.completed) == ((), {})


def test_a_server_that_comes_back_during_retries_serves_all(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", lambda state: 0.2)
    server = TEIServer()
    server.start()
    server.stop()
    embeddings = connect(server)

    async def both() -> list[list[float]]:
        call = asyncio.create_task(embeddings.aembed_documents(TEXTS))
        await asyncio.sleep(0.3)
        server.start()
        return await call

    try:
        assert asyncio.run(both()) == VECTORS
    finally:
        server.stop()


def test_a_server_that_restarts_between_calls_costs_nothing(
    server: TEIServer, connect: Connect, embed: Embed
) -> None:
    """Kept connections are dead by then; `max_retries=0` would show a second attempt."""
    embeddings = connect(server, max_retries=0)
    assert embed(embeddings, TEXTS) == VECTORS
    server.stop()
    time.sleep(0.05)  # until the background loop has heard of it
    server.start()
    assert embed(embeddings, TEXTS) == VECTORS


def test_a_failed_info_is_asked_again_by_the_next_call(connect: Connect) -> None:
    with TEIServer(max_client_batch_size=5) as server:
        server.gate = lambda number, entry: faults.overloaded()
        embeddings = connect(server, max_retries=1)
        with pytest.raises(RateLimitError, match="/info"):
            embeddings.embed_documents(TEXTS[:50])
        server.gate = None
        assert embeddings.embed_documents(TEXTS[:50]) == VECTORS[:50]
    assert {entry.inputs for entry in posts(server)} == {5}


@pytest.mark.parametrize("fault", [faults.status(401), faults.status(500), faults.html_page()])
def test_errors_of_a_call_travel_whole_through_pickle(
    fault: Fault, connect: Connect, embed: Embed
) -> None:
    with tei(latency=0.1, faults={3: fault}) as server:
        error = outcome(embed, connect(server, max_retries=0, batch_size=4), TEXTS[:200])
    assert isinstance(error, EmbeddingError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.indices, again.completed) == (error.indices, error.completed)
    assert again.completed


def test_a_call_can_go_on_from_what_its_error_kept(connect: Connect, embed: Embed) -> None:
    """What `.completed` and `.indices` are for: the rest, once more, makes the whole."""
    with tei(faults=whenever(UNLUCKY, faults.status(401))) as server:
        embeddings = connect(server)
        error = outcome(embed, embeddings)
        assert isinstance(error, AuthenticationError)
        server.faults = {}
        missing = [i for i in range(len(TEXTS)) if i not in error.completed]
        assert set(error.indices) <= set(missing)
        rest = embed(embeddings, [TEXTS[i] for i in missing])
    found = {**error.completed, **dict(zip(missing, rest, strict=True))}
    assert [found[i] for i in range(len(TEXTS))] == VECTORS


def test_one_unlucky_query_raises_like_a_text(connect: Connect) -> None:
    def script(number: int, entry: Entry) -> Fault | None:
        return faults.nan_in_vector() if "q" in entry.texts else None

    with tei(faults=script) as server:
        embeddings = connect(server)
        with pytest.raises(InvalidResponseError) as caught:
            embeddings.embed_query("q")
        with pytest.raises(InvalidResponseError):
            asyncio.run(embeddings.aembed_query("q"))
    assert caught.value.indices == (0,)
