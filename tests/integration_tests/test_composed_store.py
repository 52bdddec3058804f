"""One store, whatever computes its views: BGE-M3, or three, two or one model composed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_hfembed import (
    BGEM3Embeddings,
    ComposedEncoder,
    HuggingFaceEmbeddings,
    HuggingFaceEndpointEmbeddings,
    HuggingFaceEndpointSparseEmbeddings,
    HuggingFaceMultiVectorEmbeddings,
    HuggingFaceSparseEmbeddings,
    HybridEncoder,
    HybridReranker,
    HybridRetriever,
    HybridVectorStore,
    IndexMismatchError,
    InvalidInputError,
    SQLiteIndex,
    WeightedSum,
    score,
)
from langchain_hfembed.fusion import fuse
from tests.tei_server import TEIServer

TEXTS = [
    "the river flows to the sea",
    "cats sleep in the sun",
    "dogs run in the park",
    "서울은 대한민국의 수도이다.",
    "children eat bread and rice",
    "the city by the sea",
]
QUERY = "the river"
VIEWS_OF = {
    "bge_m3": ("dense", "sparse", "multi_vector"),
    "three": ("dense", "sparse", "multi_vector"),
    "two": ("dense", "sparse"),
    "two_without_dense": ("sparse", "multi_vector"),
    "dense": ("dense",),
    "sparse": ("sparse",),
    "multi_vector": ("multi_vector",),
}
Make = Callable[[str], Any]


@pytest.fixture(scope="module")
def make(xlmr_folder: Path, minilm_folder: Path, splade_folder: Path, colbert_folder: Path) -> Make:
    """An encoder by its name in VIEWS_OF; all share their models."""
    bge = BGEM3Embeddings(model=xlmr_folder)
    parts = {
        "dense": HuggingFaceEmbeddings(model=minilm_folder, model_kwargs={"device": "cpu"}),
        "sparse": HuggingFaceSparseEmbeddings(model=splade_folder),
        "multi_vector": HuggingFaceMultiVectorEmbeddings(model=colbert_folder),
    }

    def make(name: str) -> Any:
        return bge if name == "bge_m3" else ComposedEncoder(**{v: parts[v] for v in VIEWS_OF[name]})

    return make


@pytest.fixture(params=VIEWS_OF)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _exact(encoder: HybridEncoder) -> np.ndarray:
    [query] = encoder.encode_queries([QUERY])
    return fuse(WeightedSum(), score(query, encoder.encode_documents(TEXTS)))


def test_a_search_finds_what_comparing_all_views_finds(
    make: Make, name: str, tmp_path: Path
) -> None:
    encoder = make(name)
    index = SQLiteIndex(tmp_path / "store.db", multi_vector_dtype="float32")
    ids = [str(number) for number in range(len(TEXTS))]
    fused = _exact(encoder)
    with HybridVectorStore(encoder, index) as store:
        store.add_texts(TEXTS, ids=ids)
        hits = store.search(QUERY, k=len(TEXTS))
        assert [hit.document.id for hit in hits] == [
            ids[position] for position in np.argsort(-fused, kind="stable")
        ]
        assert [hit.score for hit in hits] == pytest.approx(sorted(fused, reverse=True), abs=1e-5)
        for hit in hits:
            present = [view for view, _ in hit.scores.present()]
            assert present == [view for view, _ in hit.ranks.present()] == list(VIEWS_OF[name])
    with HybridVectorStore(encoder, path=tmp_path / "store.db") as store:
        assert [hit.document.id for hit in store.search(QUERY, k=2)] == [
            hit.document.id for hit in hits[:2]
        ]


async def test_a_retriever_tells_the_scores_of_the_views_that_there_are(
    make: Make, name: str
) -> None:
    store = HybridVectorStore(make(name))
    await store.aadd_texts(TEXTS)
    [document] = await HybridRetriever(store=store, k=1).ainvoke(QUERY)
    scores = document.metadata["scores"]
    assert [view for view, value in scores.items() if value is not None] == list(VIEWS_OF[name])


def test_dense_searches_work_with_a_dense_part_and_say_so_without(make: Make, name: str) -> None:
    encoder = make(name)
    store = HybridVectorStore(encoder)
    store.add_texts(TEXTS)
    if "dense" in VIEWS_OF[name]:
        vector = encoder.embed_query(TEXTS[0])
        assert len(store.similarity_search_by_vector(vector, k=2)) == 2
        assert len(store.max_marginal_relevance_search(QUERY, k=3)) == 3
        return
    with pytest.raises(IndexMismatchError, match="a query with dense can't be scored"):
        store.similarity_search_by_vector([0.1, 0.2], k=2)
    with pytest.raises(InvalidInputError, match="dense"):
        store.max_marginal_relevance_search(QUERY)


@pytest.mark.parametrize("other", ["two", "bge_m3", "dense"])
def test_a_store_of_other_parts_is_refused(make: Make, tmp_path: Path, other: str) -> None:
    with HybridVectorStore(make("three"), path=tmp_path / "store.db") as store:
        store.add_texts(TEXTS)
    with (
        HybridVectorStore(make(other), path=tmp_path / "store.db") as store,
        pytest.raises(IndexMismatchError, match="was made by the model"),
    ):
        store.search(QUERY)


def test_a_reranker_takes_any_of_them(make: Make, name: str) -> None:
    encoder = make(name)
    [best] = HybridReranker(embedding=encoder, top_n=1).compress_documents(
        [Document(page_content=text) for text in TEXTS], QUERY
    )
    assert best.page_content == TEXTS[int(np.argmax(_exact(encoder)))]


def test_local_and_remote_parts_make_one_store() -> None:
    with TEIServer() as dense, TEIServer(kind="sparse") as sparse:
        encoder = ComposedEncoder(
            dense=HuggingFaceEndpointEmbeddings(endpoint_url=dense.url),
            sparse=HuggingFaceEndpointSparseEmbeddings(endpoint_url=sparse.url),
        )
        with encoder:
            store = HybridVectorStore(encoder)
            store.add_texts([f"text {number}" for number in range(200)])
            [hit] = store.search("text 7", k=1, fusion=WeightedSum(dense=1, sparse=0))
        assert hit.document.page_content == "text 7"
        assert hit.scores.sparse is not None
        assert hit.scores.multi_vector is None


def test_embeddings_of_other_packages_are_a_dense_part(make: Make) -> None:
    sparse = make("sparse")
    store = HybridVectorStore(
        ComposedEncoder(dense=DeterministicFakeEmbedding(size=8), sparse=sparse)
    )
    store.add_texts(TEXTS)
    assert store.search(TEXTS[2], k=1)[0].document.page_content == TEXTS[2]
