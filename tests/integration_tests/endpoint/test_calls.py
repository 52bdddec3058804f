"""What a call leaves undone or under way when it fails, is cancelled, or is the first of all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from langchain_hfembed.errors import AuthenticationError, EmbeddingError
from tests import tei_faults as faults
from tests.integration_tests.endpoint.helpers import TEXTS, Connect, Embed, eventually, posts
from tests.tei_server import TEIServer


def test_a_cancelled_first_call_asks_no_more(connect: Connect) -> None:
    with TEIServer() as server:
        server.gate = faults.starting(60)
        server.has_info = False
        server.healthy = False
        embeddings = connect(server)

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(embeddings.aembed_query("a"), 0.2)
            await embeddings.aclose()

        asyncio.run(give_up())
        time.sleep(0.1)
        asked = len(server.record)
        assert asked
        time.sleep(0.3)
        assert len(server.record) == asked
        assert eventually(lambda: server.connections.open == 0)


def test_who_waits_for_the_same_info_is_not_cancelled_along(connect: Connect) -> None:
    with TEIServer(info_delay=0.3) as server:
        embeddings = connect(server)

        async def two() -> Any:
            first = asyncio.create_task(embeddings.aembed_query("a"))
            second = asyncio.create_task(embeddings.aembed_query("b"))
            await asyncio.sleep(0.1)
            first.cancel()
            return await second

        assert asyncio.run(two())
        assert [entry.path for entry in server.record].count("/info") == 1


def test_what_waits_for_its_turn_is_not_sent_after_a_failure(
    connect: Connect, embed: Embed
) -> None:
    with TEIServer(
        max_concurrent_requests=4, max_client_batch_size=4, faults={1: faults.status(401)}
    ) as server:
        with pytest.raises(AuthenticationError) as caught:
            embed(connect(server), TEXTS[:100])
        assert len(posts(server)) == 1
        assert len(caught.value.indices) == 4
        assert caught.value.completed == {}


def test_connections_close_at_the_end_of_the_call_that_was_under_way(connect: Connect) -> None:
    with TEIServer(latency=0.2) as server:
        embeddings = connect(server)
        endpoint: list[Any] = []

        async def close_early() -> Any:
            call = asyncio.create_task(embeddings.aembed_documents(TEXTS[:10]))
            await asyncio.sleep(0.1)
            endpoint.extend(embeddings._endpoints.values())  # so that it is not collected
            await embeddings.aclose()
            return await call

        assert len(asyncio.run(close_early())) == 10
        assert endpoint
        assert eventually(lambda: server.connections.open == 0)


def test_five_redirects_are_followed_and_no_sixth_is_sent(connect: Connect) -> None:
    for count, is_followed in ((5, True), (6, False)):
        script = {number: faults.redirect("/embed") for number in range(1, count + 1)}
        with TEIServer(faults=script) as server:
            embeddings = connect(server)
            if is_followed:
                assert embeddings.embed_query("a")
            else:
                with pytest.raises(EmbeddingError, match="again and again"):
                    embeddings.embed_query("a")
            assert len(posts(server)) == 6


def test_an_info_that_fails_for_a_while_is_no_server_without_info(connect: Connect) -> None:
    with TEIServer(max_client_batch_size=7) as server:
        server.gate = lambda posts, entry: faults.status(500) if entry.path == "/info" else None
        embeddings = connect(server, max_retries=1)
        with pytest.raises(EmbeddingError, match="/info answered 500"):
            embeddings.embed_query("a")
        server.gate = None
        info = embeddings.info()
        assert info is not None
        assert info.max_client_batch_size == 7


@pytest.mark.parametrize(
    ("text", "is_warned"),
    [("a" * 400, False), ("a" * 404, True), ("서" * 160, False), ("서" * 162, True)],
)
def test_korean_has_more_tokens_a_character(
    text: str, is_warned: bool, connect: Connect, recwarn: pytest.WarningsRecorder
) -> None:
    with TEIServer(max_input_length=5000) as server:
        connect(server, context_window=100).embed_documents([text])
    assert len(recwarn) == is_warned


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"model_kwargs": {"dimensions": "many"}}, "dimensions"),
        ({"model_kwargs": {"truncation_direction": 5}}, "truncation_direction"),
        ({"query_prompt": "q: ", "query_prompt_name": "query"}, "give one"),
        ({"api_key": "a", "huggingfacehub_api_token": "b"}, "are the same; give one"),
        ({"model": "localhost:8080"}, "starts with http://"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    parameters: dict[str, Any], told: str, connect: Connect
) -> None:
    with pytest.raises(ValueError, match=told):
        connect(**parameters)


def test_none_for_model_kwargs_is_none_given_as_in_langchain_huggingface(connect: Connect) -> None:
    assert connect(model_kwargs=None).model_kwargs == {}


def test_queries_draw_no_progress_bar(
    connect: Connect, server: TEIServer, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings = connect(server, show_progress=True)
    embeddings.embed_query("a")
    assert capsys.readouterr().err == ""
    embeddings.embed_documents(["a"])
    assert "1/1" in capsys.readouterr().err
