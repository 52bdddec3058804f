"""Dense and sparse views in Qdrant's and Milvus's own hybrid search, out of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_hfembed import sparse_dot
from tests.integration_tests.interop.helpers import ANSWERS, TEXTS, forward_passes

MANY = [*TEXTS, *(f"text number {number}" for number in range(94))]
QUERY = "the capital of Korea"
DENSE_INDEX = {"metric_type": "COSINE", "index_type": "AUTOINDEX"}
# Without parameters: Milvus's own drop the smallest weights, which Milvus Lite refuses to do.
SPARSE_INDEX = {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX"}


@pytest.fixture
def qdrant() -> Callable[..., Any]:
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    def build(texts, dense, sparse):
        return QdrantVectorStore.from_texts(
            texts,
            dense,
            sparse_embedding=sparse.as_qdrant_sparse(),
            retrieval_mode=RetrievalMode.HYBRID,
            location=":memory:",
        )

    return build


@pytest.fixture
def milvus(tmp_path) -> Iterator[Callable[..., Any]]:
    """Builds stores on a server of Milvus Lite: threads of this process, on loopback."""
    manager = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    from langchain_milvus import Milvus

    file = str(tmp_path / "milvus.db")

    def build(texts, *embeddings_and_indexes):
        embeddings, indexes = zip(*embeddings_and_indexes, strict=True)
        return Milvus.from_texts(
            texts,
            list(embeddings),
            vector_field=[f"vector_{number}" for number in range(len(embeddings))],
            index_params=list(indexes),
            search_params=[{"metric_type": index["metric_type"]} for index in indexes],
            connection_args={"uri": file},
        )

    yield build
    manager.release_server(file)


def _pair(encoder, sparse_first: bool) -> list[tuple[Any, dict[str, str]]]:
    pair = [(encoder, DENSE_INDEX), (encoder.as_milvus_sparse(), SPARSE_INDEX)]
    return pair[::-1] if sparse_first else pair


def _milvus_hybrid(store, query):
    from pymilvus import Function, FunctionType

    fusion = Function("rrf", FunctionType.RERANK, [], params={"reranker": "rrf", "k": 60})
    return store.similarity_search(query, k=1, fetch_k=10, reranker=fusion)


def _best(search) -> dict[str, str]:
    return {query: search(query)[0].page_content for query in ANSWERS}


def _sparse_scores(encoder, query: str) -> dict[str, float]:
    """Of the texts that share a token with the query."""
    [asked] = encoder.encode_queries([query])
    scores = {
        text: sparse_dot(asked.sparse, embedding.sparse)
        for text, embedding in zip(TEXTS, encoder.encode_documents(TEXTS), strict=True)
    }
    return {text: pytest.approx(score, rel=1e-4) for text, score in scores.items() if score}


def test_qdrants_hybrid_search_finds_each_answer(bge_m3, qdrant):
    store = qdrant(TEXTS, bge_m3, bge_m3)
    assert _best(lambda query: store.similarity_search(query, k=1)) == ANSWERS


def test_qdrant_takes_dense_vectors_of_a_server_and_sparse_ones_of_this_machine(
    endpoint, bge_m3, qdrant
):
    store = qdrant(TEXTS, endpoint, bge_m3)
    assert _best(lambda query: store.similarity_search(query, k=1)) == ANSWERS


def test_qdrants_sparse_score_is_the_dot_product_of_the_weights(bge_m3):
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    store = QdrantVectorStore.from_texts(
        TEXTS,
        sparse_embedding=bge_m3.as_qdrant_sparse(),
        retrieval_mode=RetrievalMode.SPARSE,
        location=":memory:",
    )
    found = store.similarity_search_with_score(QUERY, k=len(TEXTS))
    scores = {document.page_content: score for document, score in found}
    assert scores == _sparse_scores(bge_m3, QUERY)


def test_qdrant_costs_one_pass_a_batch_and_one_a_search(bge_m3, qdrant):
    with forward_passes(bge_m3) as sizes:
        store = qdrant(MANY, bge_m3, bge_m3)
        assert sizes == [1, 64, 36]  # the first is Qdrant's "dummy_text", to learn the dimension
        store.similarity_search(QUERY)
        assert sizes == [1, 64, 36, 1]


@pytest.mark.parametrize("sparse_first", [False, True])
def test_milvuss_hybrid_search_finds_each_answer(bge_m3, milvus, sparse_first):
    store = milvus(TEXTS, *_pair(bge_m3, sparse_first))
    assert _best(lambda query: _milvus_hybrid(store, query)) == ANSWERS


def test_milvus_finds_each_answer_by_dense_vectors_alone(embeddings, milvus):
    store = milvus(TEXTS, (embeddings, DENSE_INDEX))
    assert _best(lambda query: store.similarity_search(query, k=1)) == ANSWERS


def test_milvuss_sparse_score_is_the_dot_product_of_the_weights(bge_m3, milvus):
    store = milvus(TEXTS, (bge_m3.as_milvus_sparse(), SPARSE_INDEX))
    found = store.similarity_search_with_score(QUERY, k=len(TEXTS))
    scores = {document.page_content: score for document, score in found}
    assert scores == _sparse_scores(bge_m3, QUERY)


@pytest.mark.parametrize("sparse_first", [False, True])
def test_milvus_costs_one_pass_a_batch_and_one_a_search_in_either_order(
    bge_m3, milvus, sparse_first
):
    with forward_passes(bge_m3) as sizes:
        store = milvus(MANY, *_pair(bge_m3, sparse_first))
        assert sizes == [64, 36]
        _milvus_hybrid(store, QUERY)
        assert sizes == [64, 36, 1]
