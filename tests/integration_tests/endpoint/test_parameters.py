"""Each parameter of HuggingFaceEndpointEmbeddings, by what reaches the server because of it."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    EndpointTimeoutError,
    InvalidInputError,
    ModelNotFoundError,
)
from tests import tei_faults as faults
from tests.integration_tests.endpoint.helpers import (
    TEXTS,
    VECTORS,
    Connect,
    Embed,
    eventually,
    in_flight,
    posts,
)
from tests.tei_contract import hash_vectors
from tests.tei_server import TEIServer

FEW = ["a", "b c", "d e f"]
FEW_VECTORS = hash_vectors(FEW)


# Where requests go.


@pytest.mark.parametrize(
    ("parameter", "suffix", "has_info", "path"),
    [
        ("endpoint_url", "", True, "/embed"),
        ("endpoint_url", "/", True, "/embed"),
        ("endpoint_url", "", False, "/"),
        ("endpoint_url", "/embed", True, "/embed"),
        ("endpoint_url", "/embed", False, "/embed"),
        ("endpoint_url", "/embed?tenant=1", True, "/embed"),
        ("endpoint_url", "/v1/embeddings", True, "/v1/embeddings"),
        ("endpoint_url", "/v1/embeddings", False, "/v1/embeddings"),
        ("endpoint_url", "/invocations", True, "/invocations"),
        ("model", "", True, "/embed"),
        ("model", "/v1/embeddings", True, "/v1/embeddings"),
        ("model", "", False, "/"),
        ("repo_id", "", True, "/embed"),
    ],
)
def test_a_path_is_used_as_it_is_and_a_bare_host_is_asked_what_it_is(
    parameter: str, suffix: str, has_info: bool, path: str, connect: Connect
) -> None:
    with TEIServer(has_info=has_info) as server:
        embeddings = connect(**{parameter: server.url + suffix})
        assert embeddings.embed_documents(FEW) == FEW_VECTORS
        assert embeddings.embed_query("a") == FEW_VECTORS[0]
    assert [entry.path for entry in posts(server)] == [path, path]


def test_info_is_asked_once_an_object(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    for _ in range(3):
        embeddings.embed_documents(FEW)
    assert [entry.path for entry in server.record].count("/info") == 1


@pytest.mark.parametrize(("model", "sent"), [("org/model", "org/model"), (None, "default")])
def test_openais_format_names_the_model(
    model: str | None, sent: str, server: TEIServer, connect: Connect
) -> None:
    connect(endpoint_url=f"{server.url}/v1/embeddings", model=model).embed_documents(FEW)
    assert posts(server)[0].json == {"input": FEW[::-1], "model": sent}


def test_an_option_that_openais_format_lacks_is_refused_and_blames_no_text(
    server: TEIServer, connect: Connect, embed: Embed
) -> None:
    embeddings = connect(endpoint_url=f"{server.url}/v1/embeddings", normalize=False)
    with pytest.raises(InvalidInputError, match="normalize") as caught:
        embed(embeddings, FEW)
    assert posts(server) == []
    assert caught.value.indices == ()


@pytest.mark.parametrize(
    ("parameters", "model", "url"),
    [
        ({}, "sentence-transformers/all-mpnet-base-v2", None),
        ({"model": "org/model"}, "org/model", None),
        ({"repo_id": "org/model"}, "org/model", None),
        ({"model": "org/model", "repo_id": "org/model"}, "org/model", None),
        ({"model": "http://127.0.0.1:9"}, "http://127.0.0.1:9", "http://127.0.0.1:9"),
        ({"repo_id": "http://127.0.0.1:9"}, "http://127.0.0.1:9", "http://127.0.0.1:9"),
        ({"endpoint_url": "http://127.0.0.1:9"}, None, "http://127.0.0.1:9"),
        (
            {"model": "org/model", "endpoint_url": "http://127.0.0.1:9"},
            "org/model",
            "http://127.0.0.1:9",
        ),
        ({"model": "org/model", "provider": "hf-inference"}, "org/model", None),
    ],
)
def test_model_and_url_are_what_was_given(
    parameters: dict[str, Any], model: str | None, url: str | None, connect: Connect
) -> None:
    embeddings = connect(**parameters)
    assert (embeddings.model, embeddings.url) == (model, url)


URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"model": "org/a", "repo_id": "org/b"}, "two models"),
        ({"model": URL, "endpoint_url": "http://127.0.0.1:10"}, "two servers"),
        ({"endpoint_url": URL, "provider": "hf-inference"}, "provider"),
        ({"model": URL, "provider": "hf-inference"}, "provider"),
        ({"model": "host:8080"}, "colon"),
        ({"endpoint_url": "127.0.0.1:9"}, "http://"),
        ({"endpoint_url": "ftp://127.0.0.1"}, "http://"),
        ({"endpoint_url": "http://"}, "http://"),
        ({"endpoint_url": "http://user:secret@127.0.0.1"}, "password"),
        ({"model": "http://user:secret@127.0.0.1"}, "password"),
        ({"endpoint_url": URL, "task": "text-generation"}, "task"),
        ({"endpoint_url": URL, "no_such_parameter": 1}, "no_such_parameter"),
        ({"endpoint_url": URL, "model_kwargs": {"pooling": "cls"}}, "pooling"),
        ({"endpoint_url": URL, "model_kwargs": {"normalize": True}, "normalize": False}, "once"),
        ({"endpoint_url": URL, "model_kwargs": {"truncate": True}, "truncate": False}, "once"),
        ({"endpoint_url": URL, "model_kwargs": {"dimensions": 2}, "dimensions": 3}, "once"),
        (
            {"endpoint_url": URL, "model_kwargs": {"prompt_name": "a"}, "query_prompt_name": "b"},
            "once",
        ),
        (
            {
                "endpoint_url": URL,
                "model_kwargs": {"truncation_direction": "left"},
                "truncation_direction": "right",
            },
            "once",
        ),
        ({"endpoint_url": URL, "truncation_direction": "up"}, "truncation_direction"),
        ({"endpoint_url": URL, "dimensions": 0}, "dimensions"),
        ({"endpoint_url": URL, "batch_size": 0}, "batch_size"),
        ({"endpoint_url": URL, "max_concurrency": 0}, "max_concurrency"),
        ({"endpoint_url": URL, "timeout": 0}, "timeout"),
        ({"endpoint_url": URL, "max_retries": -1}, "max_retries"),
        ({"endpoint_url": URL, "cold_start_timeout": -1}, "cold_start_timeout"),
        ({"endpoint_url": URL, "context_window": 0}, "context_window"),
        ({"endpoint_url": URL, "headers": {"bad name": "x"}}, "bad name"),
        ({"endpoint_url": URL, "headers": {"X-A": "line\nbreak"}}, "X-A"),
        ({"endpoint_url": URL, "headers": {"X-A": "é"}}, "X-A"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(
    parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        HuggingFaceEndpointEmbeddings(**parameters)


# The token; more of it in test_security.


@pytest.mark.parametrize("name", ["api_key", "huggingfacehub_api_token"])
def test_a_token_that_was_passed_is_sent(name: str, connect: Connect) -> None:
    with TEIServer(api_key="hf_explicit") as server:
        embeddings = connect(server, **{name: "hf_explicit"})
        assert embeddings.embed_documents(FEW) == FEW_VECTORS
    assert {entry.headers["authorization"] for entry in server.record} == {"Bearer hf_explicit"}


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"])
def test_a_token_of_the_environment_is_held_but_not_sent_to_another_host(
    name: str, server: TEIServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hf_environment")
    embeddings = connect(server)
    assert embeddings.embed_documents(FEW) == FEW_VECTORS
    assert embeddings.huggingfacehub_api_token is not None
    assert embeddings.huggingfacehub_api_token.get_secret_value() == "hf_environment"
    assert not any("authorization" in entry.headers for entry in server.record)


def test_a_server_that_wants_a_token_makes_the_error_say_why_none_was_sent(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TEIServer(api_key="k") as server:
        with pytest.raises(AuthenticationError, match="no token was sent"):
            connect(server).embed_query("a")
        monkeypatch.setenv("HF_TOKEN", "hf_environment_token")
        with pytest.raises(AuthenticationError, match=r"HF_TOKEN.*was not sent") as caught:
            connect(server).embed_query("a")
    assert "hf_environment" not in str(caught.value)


# What the server is asked to do with texts.


@pytest.mark.parametrize(
    ("parameters", "query", "document"),
    [
        ({}, {}, {}),
        ({"normalize": True}, {"normalize": True}, {"normalize": True}),
        ({"normalize": False}, {"normalize": False}, {"normalize": False}),
        ({"truncate": True}, {"truncate": True}, {"truncate": True}),
        ({"truncate": False}, {"truncate": False}, {"truncate": False}),
        (
            {"truncation_direction": "left"},
            {"truncation_direction": "Left"},
            {"truncation_direction": "Left"},
        ),
        ({"dimensions": 4}, {"dimensions": 4}, {"dimensions": 4}),
        ({"query_prompt_name": "q"}, {"prompt_name": "q"}, {}),
        ({"document_prompt_name": "d"}, {}, {"prompt_name": "d"}),
        ({"model_kwargs": {"normalize": False}}, {"normalize": False}, {"normalize": False}),
        ({"model_kwargs": {"truncate": True}}, {"truncate": True}, {"truncate": True}),
        ({"model_kwargs": {"dimensions": 4}}, {"dimensions": 4}, {"dimensions": 4}),
        (
            {"model_kwargs": {"truncation_direction": "right"}},
            {"truncation_direction": "Right"},
            {"truncation_direction": "Right"},
        ),
        ({"model_kwargs": {"prompt_name": "q"}}, {"prompt_name": "q"}, {"prompt_name": "q"}),
        (
            {"model_kwargs": {"normalize": True}, "normalize": True},
            {"normalize": True},
            {"normalize": True},
        ),
        ({"context_window": 100}, {"truncate": True}, {"truncate": True}),
        ({"context_window": 100, "truncate": False}, {"truncate": False}, {"truncate": False}),
    ],
)
def test_options_are_sent_when_given_and_absent_otherwise(
    parameters: dict[str, Any], query: dict[str, Any], document: dict[str, Any], connect: Connect
) -> None:
    with TEIServer(prompts={"q": "query: ", "d": "passage: "}) as server:
        embeddings = connect(server, **parameters)
        embeddings.embed_query("a")
        embeddings.embed_documents(["a"])
    assert [entry.json for entry in posts(server)] == [
        {"inputs": ["a"], **query},
        {"inputs": ["a"], **document},
    ]


def test_prompts_go_in_front_of_their_side_and_the_callers_list_stays(
    server: TEIServer, connect: Connect, embed: Embed
) -> None:
    given = list(FEW)
    embeddings = connect(server, query_prompt="query: ", document_prompt="passage: ")
    assert embed(embeddings, given) == hash_vectors([f"passage: {text}" for text in FEW])
    assert embeddings.embed_query("a") == hash_vectors(["query: a"])[0]
    assert given == FEW


# How texts travel.


def test_nul_newlines_and_every_other_character_arrive_unchanged(
    server: TEIServer, connect: Connect, embed: Embed
) -> None:
    texts = ["a\x00b", "\x00", "a\nb\r\nc\n", " ", "\t", '"\\', "한국어 é e\u0301 🤗", "\u2028\x7f"]
    assert embed(connect(server), texts) == hash_vectors(texts)
    assert sorted(text for entry in posts(server) for text in entry.texts) == sorted(texts)


def test_texts_are_sent_longest_first_and_come_back_in_their_order(
    server: TEIServer, connect: Connect, embed: Embed
) -> None:
    texts = ["한" * length for length in (3, 9, 1, 7, 2, 8)]
    assert embed(connect(server, batch_size=2, max_concurrency=1), texts) == hash_vectors(texts)
    assert [[len(text) for text in entry.texts] for entry in posts(server)] == [
        [9, 8],
        [7, 3],
        [2, 1],
    ]


def test_a_body_stays_below_one_and_a_half_megabytes(connect: Connect) -> None:
    texts = [f"{number} " + "é\n" * 66_000 for number in range(20)]  # 4 bytes of JSON for each
    with TEIServer(max_input_length=100_000) as server:
        assert connect(server).embed_documents(texts) == hash_vectors(texts)
    sizes = [entry.body_bytes for entry in posts(server)]
    assert sum(sizes) > 20 * 4 * 66_000
    assert max(sizes) <= 1_500_100  # of texts; the frame around them takes some bytes more


def test_no_texts_need_no_request(server: TEIServer, connect: Connect, embed: Embed) -> None:
    assert embed(connect(server), []) == []
    assert server.record == []


@pytest.mark.parametrize(
    ("texts", "indices"),
    [
        ("a lone string", ()),
        (b"bytes", ()),
        (None, ()),
        (7, ()),
        (["a", None, "b"], (1,)),
        (["a", "b", 3.5], (2,)),
        ([["a"]], (0,)),
        (["a", ""], (1,)),
        (["", "a", ""], (0, 2)),
        (["a", "b", "c\ud800"], (2,)),
    ],
)
def test_what_is_no_text_is_refused_by_its_index_before_anything_is_sent(
    texts: Any, indices: tuple[int, ...], server: TEIServer, connect: Connect, embed: Embed
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        embed(connect(server), texts)
    assert caught.value.indices == indices
    assert isinstance(caught.value, ValueError)
    assert server.record == []


@pytest.mark.parametrize("query", ["", None, 7, "\ud800", ["a"]])
def test_what_is_no_query_is_refused_before_anything_is_sent(
    query: Any, server: TEIServer, connect: Connect
) -> None:
    embeddings = connect(server)
    with pytest.raises(InvalidInputError):
        embeddings.embed_query(query)
    with pytest.raises(InvalidInputError):
        asyncio.run(embeddings.aembed_query(query))
    assert server.record == []


# batch_size


@pytest.mark.parametrize(
    ("batch_size", "served", "permits", "has_info", "largest"),
    [
        (None, 8, 512, True, 8),
        (None, 64, 512, True, 64),
        (None, 32, 512, False, 32),
        (4, 8, 512, True, 4),
        (100, 8, 512, True, 8),
        (16, 512, 512, False, 16),
        (None, 32, 5, True, 5),
        (1, 32, 512, True, 1),
    ],
)
def test_a_batch_is_as_large_as_asked_for_but_no_larger_than_the_server_says(
    batch_size: int | None,
    served: int,
    permits: int,
    has_info: bool,
    largest: int,
    connect: Connect,
) -> None:
    limits: dict[str, Any] = {"max_client_batch_size": served, "max_concurrent_requests": permits}
    with TEIServer(has_info=has_info, **limits) as server:
        assert connect(server, batch_size=batch_size).embed_documents(TEXTS[:150]) == VECTORS[:150]
    assert max(entry.inputs for entry in posts(server)) == largest
    assert {entry.status for entry in posts(server)} == {200}


@pytest.mark.parametrize("version", ["1.8.3", "1.9.3"])
def test_a_batch_limit_learned_from_a_refusal_is_kept(version: str, connect: Connect) -> None:
    with TEIServer(version=version, has_info=False, max_client_batch_size=8) as server:
        embeddings = connect(server, max_concurrency=1)
        assert embeddings.embed_documents(TEXTS[:100]) == VECTORS[:100]
        first = [entry.inputs for entry in posts(server)]
        server.clear()
        assert embeddings.embed_documents(TEXTS[:100]) == VECTORS[:100]
        second = [entry.inputs for entry in posts(server)]
    assert first[0] == 32
    assert max(first[1:]) == max(second) == 8


def test_a_payload_limit_learned_from_a_refusal_is_kept(connect: Connect) -> None:
    texts = [f"{number} " + "x" * 1000 for number in range(100)]
    with TEIServer(payload_limit=10_000) as server:
        embeddings = connect(server, max_concurrency=1)
        for _ in range(2):
            server.clear()
            assert embeddings.embed_documents(texts) == hash_vectors(texts)
    assert {entry.status for entry in posts(server)} == {200}
    assert max(entry.inputs for entry in posts(server)) > 2


# max_concurrency


@pytest.mark.parametrize("max_concurrency", [1, 3, 8])
def test_so_many_requests_are_in_flight_and_no_more(
    max_concurrency: int, connect: Connect, embed: Embed
) -> None:
    with TEIServer(latency=0.03) as server:
        embeddings = connect(server, max_concurrency=max_concurrency, batch_size=8)
        assert embed(embeddings, TEXTS[:120]) == VECTORS[:120]
    assert server.max_requests_in_flight == max_concurrency


def test_eight_requests_are_in_flight_by_default(connect: Connect) -> None:
    with TEIServer(latency=0.05) as server:
        connect(server).embed_documents(TEXTS)
    assert server.max_requests_in_flight == 8


def test_threads_and_loops_of_one_object_share_its_requests_in_flight(connect: Connect) -> None:
    with TEIServer(latency=0.02) as server:
        embeddings = connect(server, max_concurrency=3, batch_size=4)

        def call(number: int) -> list[list[float]]:
            texts = TEXTS[number * 40 : number * 40 + 40]
            if number % 2:
                return asyncio.run(embeddings.aembed_documents(texts))
            return embeddings.embed_documents(texts)

        with ThreadPoolExecutor(6) as pool:
            found = [vector for vectors in pool.map(call, range(6)) for vector in vectors]
    assert found == VECTORS[:240]
    assert server.max_requests_in_flight == 3


@pytest.mark.parametrize("permits", [64, 100, 256, 512])
def test_texts_in_flight_stay_within_the_servers_permits(permits: int, connect: Connect) -> None:
    with TEIServer(latency=0.03, max_concurrent_requests=permits) as server:
        assert connect(server, max_concurrency=64).embed_documents(TEXTS) == VECTORS
    assert {entry.status for entry in posts(server)} == {200}
    assert server.max_inputs_in_flight > permits / 2
    assert server.max_inputs_in_flight <= permits


def test_requests_in_flight_are_halved_by_a_429_and_grow_again(connect: Connect) -> None:
    overloaded = replace(faults.overloaded(), delay=0.05)  # the first eight are out by then
    with TEIServer(latency=0.1, faults={1: overloaded}) as server:
        embeddings = connect(server, max_concurrency=8, batch_size=14)
        assert embeddings.embed_documents(TEXTS) == VECTORS
    flights = in_flight(posts(server))
    assert flights[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert max(flights[8:12]) == 4
    # Ten successes take it a step up: after 20 requests it can't be 8 again, after 55 it must.
    assert max(flights[12:20]) in (5, 6)
    assert max(flights[55:]) == 8


# timeout, max_retries, cold_start_timeout


@pytest.mark.parametrize("fault", [faults.drip(3), faults.hang(3)], ids=["drip", "hang"])
def test_the_timeout_is_a_requests_total(
    fault: faults.Fault, connect: Connect, embed: Embed
) -> None:
    """A reply of which a piece comes every 0.15 s is too late in the end."""
    with TEIServer(faults=lambda number, entry: fault) as server:
        embeddings = connect(server, timeout=0.5, max_retries=0)
        started = time.monotonic()
        with pytest.raises(EndpointTimeoutError, match=r"0\.5 s") as caught:
            embed(embeddings, FEW)
        assert time.monotonic() - started < 1.5
    assert caught.value.indices == (0, 1, 2)


def test_waiting_for_a_turn_is_no_part_of_the_timeout(connect: Connect) -> None:
    with TEIServer(latency=0.1) as server:
        embeddings = connect(server, timeout=0.5, max_concurrency=1, batch_size=1, max_retries=0)
        assert embeddings.embed_documents(TEXTS[:10]) == VECTORS[:10]


PASSING = {
    "429": faults.overloaded(),
    "500": faults.status(500),
    "503": faults.unavailable(503),
    "502": faults.unavailable(502),
    "504": faults.status(504),
    "408": faults.status(408),
    "reset": faults.reset(),
    "loading": faults.loading(),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_without_retries_a_request_is_sent_once(fault: faults.Fault, connect: Connect) -> None:
    with TEIServer(faults=lambda number, entry: fault) as server:
        with pytest.raises(EmbeddingError):
            connect(server, max_retries=0).embed_documents(FEW)
        assert len(posts(server)) == 1


@pytest.mark.parametrize("max_retries", [1, 3])
def test_retries_come_after_the_first_attempt(max_retries: int, connect: Connect) -> None:
    with TEIServer(faults=lambda number, entry: faults.status(500)) as server:
        with pytest.raises(EmbeddingError):
            connect(server, max_retries=max_retries).embed_documents(FEW)
        assert len(posts(server)) == 1 + max_retries


@pytest.mark.parametrize("code", [502, 503])
def test_a_cold_start_takes_no_retries_but_time(code: int, connect: Connect) -> None:
    with TEIServer(gate=faults.starting(0.4, code)) as server:
        embeddings = connect(server, max_retries=1, cold_start_timeout=20)
        assert embeddings.embed_documents(FEW) == FEW_VECTORS
    assert len(server.record) > 5


def test_a_cold_start_that_takes_too_long_is_given_up(connect: Connect) -> None:
    with TEIServer(gate=faults.starting(60)) as server:
        embeddings = connect(server, cold_start_timeout=0.3)
        started = time.monotonic()
        with pytest.raises(ColdStartError, match="cold_start_timeout"):
            embeddings.embed_documents(FEW)
        assert 0.25 < time.monotonic() - started < 2


# headers


def test_headers_are_sent_with_each_request(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server, headers={"X-Tenant": "blue"})
    embeddings.embed_documents(FEW)
    embeddings.health()
    embeddings.metrics()
    assert [entry.headers.get("x-tenant") for entry in server.record] == ["blue"] * 4


def test_an_authorization_header_wins_over_the_token(connect: Connect) -> None:
    with TEIServer(api_key="mine") as server:
        embeddings = connect(server, api_key="other", headers={"authorization": "Bearer mine"})
        assert embeddings.embed_documents(FEW) == FEW_VECTORS


# context_window, show_progress


def test_texts_longer_than_the_context_window_warn_once_an_object_and_are_cut(
    connect: Connect,
) -> None:
    long = " ".join(f"w{number}" for number in range(30))
    with TEIServer(max_input_length=5, auto_truncate=False) as server:
        embeddings = connect(server, context_window=5)
        assert embeddings.embed_documents(["w" * 20]) == hash_vectors(["w" * 20])  # no warning
        with pytest.warns(UserWarning, match="1 of 2 texts.*longer than 5 tokens") as caught:
            vectors = embeddings.embed_documents(["a", long])
        assert vectors == hash_vectors(["a", "w0 w1 w2 w3 w4"])
        assert embeddings.embed_query(long) == vectors[1]  # a warning would be an error here
        with pytest.warns(UserWarning, match="1 of 1 texts"):
            asyncio.run(connect(server, context_window=5).aembed_documents([long]))
    assert [warning.filename for warning in caught] == [__file__]


def test_the_context_window_leaves_servers_in_openais_format_usable(
    server: TEIServer, connect: Connect
) -> None:
    """It is our parameter, and has no place in their requests: nothing was asked of the server."""
    embeddings = connect(endpoint_url=f"{server.url}/v1/embeddings", context_window=512)
    assert embeddings.embed_documents(FEW) == FEW_VECTORS


@pytest.mark.parametrize("show_progress", [True, False])
def test_progress_is_shown_when_asked_for(
    show_progress: bool,
    server: TEIServer,
    connect: Connect,
    embed: Embed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    embed(connect(server, show_progress=show_progress), TEXTS)
    shown = capfd.readouterr()
    assert ("1000/1000" in shown.err) is show_progress
    assert shown.out == ""


# Beyond Embeddings


def test_info_says_what_the_server_says(connect: Connect) -> None:
    with TEIServer(max_client_batch_size=7, max_concurrent_requests=99) as server:
        info = connect(server).info()
    assert info is not None
    assert (info.model_id, info.version) == ("org/model", "1.9.3")
    assert (info.max_client_batch_size, info.max_concurrent_requests) == (7, 99)
    assert (info.max_input_length, info.auto_truncate) == (512, True)
    assert [entry.path for entry in server.record] == ["/info"]


def test_a_server_without_info_says_none(connect: Connect) -> None:
    with TEIServer(has_info=False) as server:
        assert connect(server).info() is None
    with TEIServer(gate=lambda number, entry: faults.html_page()) as portal:
        assert connect(portal).info() is None


@pytest.mark.parametrize("suffix", ["", "/embed", "/v1/embeddings"])
def test_health_is_one_request_beside_the_route(suffix: str, connect: Connect) -> None:
    with TEIServer() as server:
        embeddings = connect(endpoint_url=server.url + suffix)
        assert embeddings.health() is True
        server.healthy = False
        assert embeddings.health() is False
        assert [entry.path for entry in server.record] == ["/health"] * 2
    assert embeddings.health() is False


def test_metrics_are_prometheus_samples(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    embeddings.embed_documents(FEW)
    assert embeddings.metrics() == {
        'te_request_count{method="batch"}': 1.0,
        'te_request_success{method="batch"}': 1.0,
        "te_queue_size": 0.0,
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [(faults.status(404), ModelNotFoundError), (faults.unavailable(), ColdStartError)],
)
def test_metrics_and_health_are_asked_for_once(
    fault: faults.Fault, error: type[EmbeddingError], connect: Connect
) -> None:
    with TEIServer(gate=lambda number, entry: fault) as server:
        embeddings = connect(server)
        with pytest.raises(error, match="/metrics"):
            embeddings.metrics()
        assert embeddings.health() is False
    assert len(server.record) == 2


@pytest.mark.parametrize("ask", ["health", "metrics"])
def test_a_model_without_url_has_neither_health_nor_metrics(ask: str, connect: Connect) -> None:
    with pytest.raises(InvalidInputError, match="URL"):
        getattr(connect(model="org/model"), ask)()


def test_check_reports_what_works_and_never_raises(connect: Connect) -> None:
    with TEIServer(api_key="hf_0123456789abcdef") as server:
        good = connect(server, api_key="hf_0123456789abcdef").check()
        wrong = connect(server, api_key="hf_wrong").check()
        server.api_key = None
        server.gate = faults.starting(60)
        server.clear()
        cold = connect(server).check()
        asked = len(server.record)
    gone = connect(server).check()
    assert (good.ok, good.reachable, good.authorised) == (True, True, True)
    assert (good.model, good.dimension) == ("org/model", 16)
    assert good.limits["max_client_batch_size"] == 32
    assert good.round_trip_ms is not None
    assert (wrong.ok, wrong.reachable, wrong.authorised) == (False, True, False)
    assert (cold.ok, cold.reachable, asked) == (False, True, 1)
    assert (gone.ok, gone.reachable) == (False, False)
    assert "hf_0123456789" not in str(good) + str(good.to_dict())


# Closing


def close(embeddings: HuggingFaceEndpointEmbeddings) -> None:
    embeddings.close()


def aclose(embeddings: HuggingFaceEndpointEmbeddings) -> None:
    asyncio.run(embeddings.aclose())


def leave(embeddings: HuggingFaceEndpointEmbeddings) -> None:
    with embeddings as same:
        assert same is embeddings


def aleave(embeddings: HuggingFaceEndpointEmbeddings) -> None:
    async def within() -> None:
        async with embeddings as same:
            assert same is embeddings

    asyncio.run(within())


@pytest.mark.parametrize("end", [close, aclose, leave, aleave])
def test_closing_ends_all_connections_and_a_later_call_opens_them_again(
    end: Callable[[HuggingFaceEndpointEmbeddings], None], server: TEIServer, connect: Connect
) -> None:
    embeddings = connect(server)
    for _ in range(2):
        assert embeddings.embed_documents(FEW) == FEW_VECTORS
        assert server.connections.open == 1
        end(embeddings)
        end(embeddings)
        assert eventually(lambda: server.connections.open == 0)
    assert server.connections.opened == 2


def test_closing_during_a_call_loses_none_of_it_and_leaves_no_connection(
    connect: Connect,
) -> None:
    with TEIServer(latency=0.1) as server:
        embeddings = connect(server, batch_size=10)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(embeddings.embed_documents, TEXTS[:300])
            assert eventually(lambda: posts(server))
            embeddings.close()
            assert call.result() == VECTORS[:300]
        assert {entry.status for entry in server.record} == {200}
        del call
        assert eventually(lambda: server.connections.open == 0)


def test_closing_while_info_is_asked_for_does_not_break_the_answer(connect: Connect) -> None:
    with TEIServer(info_delay=0.3) as server:
        embeddings = connect(server)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(embeddings.info)
            assert eventually(lambda: server.record)
            embeddings.close()
            info = call.result()
    assert info is not None
    assert [entry.status for entry in server.record] == [200]


# Copies


def shallow(embeddings: HuggingFaceEndpointEmbeddings) -> HuggingFaceEndpointEmbeddings:
    return copy.copy(embeddings)


def model_copy(embeddings: HuggingFaceEndpointEmbeddings) -> HuggingFaceEndpointEmbeddings:
    return embeddings.model_copy()


def deep(embeddings: HuggingFaceEndpointEmbeddings) -> HuggingFaceEndpointEmbeddings:
    return copy.deepcopy(embeddings)


def dumped(embeddings: HuggingFaceEndpointEmbeddings) -> HuggingFaceEndpointEmbeddings:
    return HuggingFaceEndpointEmbeddings(**embeddings.model_dump())


def pickled(embeddings: HuggingFaceEndpointEmbeddings) -> HuggingFaceEndpointEmbeddings:
    made: HuggingFaceEndpointEmbeddings = pickle.loads(pickle.dumps(embeddings))
    return made


COPIES = [shallow, model_copy, deep, dumped, pickled]


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_works_like_its_original_also_one_in_use(
    duplicate: Callable[[HuggingFaceEndpointEmbeddings], HuggingFaceEndpointEmbeddings],
    server: TEIServer,
    connect: Connect,
) -> None:
    embeddings = connect(
        server, batch_size=2, normalize=True, query_prompt="query: ", headers={"X-A": "b"}
    )
    embeddings.embed_documents(FEW)
    server.clear()
    with duplicate(embeddings) as made:
        assert made.model_dump() == embeddings.model_dump()
        assert made.embed_documents(FEW) == FEW_VECTORS
        assert made.embed_query("a") == hash_vectors(["query: a"])[0]
    assert max(entry.inputs for entry in posts(server)) == 2
    assert {entry.headers.get("x-a") for entry in server.record} == {"b"}
    assert embeddings.embed_documents(FEW) == FEW_VECTORS


@pytest.mark.parametrize(
    ("duplicate", "keeps"),
    [(shallow, True), (model_copy, True), (deep, True), (dumped, True), (pickled, False)],
)
def test_an_explicit_token_survives_copies_but_not_pickling(
    duplicate: Callable[[HuggingFaceEndpointEmbeddings], HuggingFaceEndpointEmbeddings],
    keeps: bool,
    connect: Connect,
) -> None:
    with TEIServer(api_key="hf_explicit") as server:
        embeddings = connect(server, api_key="hf_explicit")
        embeddings.embed_documents(FEW)
        with duplicate(embeddings) as made:
            if keeps:
                assert made.embed_documents(FEW) == FEW_VECTORS
            else:
                with pytest.raises(AuthenticationError):
                    made.embed_documents(FEW)


@pytest.mark.parametrize("duplicate", [shallow, model_copy])
def test_shallow_copies_share_connections(
    duplicate: Callable[[HuggingFaceEndpointEmbeddings], HuggingFaceEndpointEmbeddings],
    server: TEIServer,
    connect: Connect,
) -> None:
    embeddings = connect(server)
    embeddings.embed_query("a")
    duplicate(embeddings).embed_query("a")
    assert server.connections.opened == 1
    assert [entry.path for entry in server.record].count("/info") == 1


def test_a_copy_with_another_url_goes_there(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    embeddings.embed_query("a")
    with (
        TEIServer() as other,
        embeddings.model_copy(update={"endpoint_url": other.url}) as moved,
    ):
        assert moved.embed_query("a") == FEW_VECTORS[0]
        assert len(posts(other)) == len(posts(server)) == 1


def test_a_copy_with_another_url_can_be_rebuilt_from_its_dump(connect: Connect) -> None:
    moved = connect(endpoint_url=URL).model_copy(update={"endpoint_url": "http://127.0.0.1:10"})
    again = HuggingFaceEndpointEmbeddings(**moved.model_dump())
    assert again.endpoint_url == "http://127.0.0.1:10"


def test_parameters_changed_after_the_first_call_count(server: TEIServer, connect: Connect) -> None:
    embeddings = connect(server)
    embeddings.embed_documents(TEXTS[:20])
    embeddings.batch_size = 5
    embeddings.normalize = False
    server.clear()
    embeddings.embed_documents(TEXTS[:20])
    assert {entry.inputs for entry in posts(server)} == {5}
    assert {entry.json.get("normalize") for entry in posts(server)} == {False}


# from_credentials


def test_credentials_name_key_endpoint_model_and_window(tmp_path: Any, connect: Connect) -> None:
    with TEIServer(api_key="hf_credentials") as server:
        document = (
            f'{{"api_key": "hf_credentials", "endpoint": "{server.url}", '
            '"model_name": "org/model", "context_window": 512}'
        )
        path = tmp_path / "credentials.json"
        path.write_text(document)
        for credentials in (document, str(path), path, json.loads(document)):
            with HuggingFaceEndpointEmbeddings.from_credentials(credentials) as embeddings:
                assert embeddings.embed_documents(FEW) == FEW_VECTORS
                assert (embeddings.model, embeddings.context_window) == ("org/model", 512)
    assert {entry.json.get("truncate") for entry in posts(server)} == {True}


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ({"endpoint": URL, "extra": 1}, "extra"),
        ({"api_key": "hf_secret"}, "neither"),
        ({"endpoint": 7}, "endpoint"),
        ({"endpoint": URL, "context_window": "512"}, "context_window"),
        ({"endpoint": URL, "context_window": True}, "context_window"),
        ('{"endpoint": ', "JSON"),
    ],
)
def test_credentials_that_make_no_sense_are_refused(credentials: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        HuggingFaceEndpointEmbeddings.from_credentials(credentials)


def test_warnings_and_logs_are_silent_where_all_is_well(
    server: TEIServer, connect: Connect, embed: Embed, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(connect(server), FEW)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert "hfembed-http" in {thread.name for thread in threading.enumerate()}
