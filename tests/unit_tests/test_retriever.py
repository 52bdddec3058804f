"""What a `HybridRetriever` returns, and what it tells LangChain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_hfembed import (
    HybridIndexError,
    HybridRetriever,
    HybridVectorStore,
    InvalidInputError,
    ReciprocalRankFusion,
    SQLiteIndex,
    View,
    WeightedSum,
)
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder

DOCUMENTS = [
    Document("the capital of Korea is Seoul", id="0", metadata={"country": "Korea"}),
    Document("the capital of Japan is Tokyo", id="1", metadata={"country": "Japan"}),
    Document("cats sleep in the sun", id="2", metadata={"scores": "mine", "list": [1]}),
    Document("dogs run in the park", id="3"),
    Document("the river flows to the sea", id="4"),
]
QUERY = "the capital of cats"


def make_retriever(views: tuple[View, ...] = VIEWS, **kwargs: Any) -> HybridRetriever:
    return HybridRetriever.from_documents(DOCUMENTS, HashEncoder(views), **kwargs)


def ids_of(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


@pytest.mark.parametrize("views", [VIEWS, ("dense",), ("sparse", "multi_vector")])
def test_each_document_tells_the_scores_of_its_hit(views: tuple[View, ...]) -> None:
    retriever = make_retriever(views, k=5)
    hits = retriever.store.search(QUERY, k=5)
    found = retriever.invoke(QUERY)
    assert ids_of(found) == [hit.document.id for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        original = DOCUMENTS[int(document.id)]
        scores = {view: getattr(hit.scores, view) for view in VIEWS}
        assert {view for view, score in scores.items() if score is not None} == set(views)
        told = {"relevance_score": hit.score, "scores": scores}
        assert document == original.model_copy(update={"metadata": original.metadata | told})


def test_scores_are_plain_numbers_that_json_takes() -> None:
    for document in make_retriever(k=5).invoke(QUERY):
        assert json.loads(json.dumps(document.metadata)) == document.metadata
        assert type(document.metadata["relevance_score"]) is float
        assert {type(score) for score in document.metadata["scores"].values()} == {float}


def test_the_stores_own_documents_do_not_change() -> None:
    before = [document.model_copy(deep=True) for document in DOCUMENTS]
    retriever = make_retriever(k=5)
    for document in retriever.invoke(QUERY):
        document.metadata["list"] = "changed"
    assert retriever.store.get_by_ids([d.id for d in DOCUMENTS]) == before == DOCUMENTS
    assert all("relevance_score" not in d.metadata for d in retriever.store.similarity_search("a"))


@pytest.mark.parametrize("kept", range(6))
def test_documents_below_the_threshold_are_left_out_and_one_at_it_is_not(kept: int) -> None:
    fusion = WeightedSum(normalization=None)
    hits = make_retriever().store.search(QUERY, k=5, fusion=fusion)
    scores = [2.0, *(hit.score for hit in hits)]
    assert scores == sorted(set(scores), reverse=True)
    retriever = make_retriever(k=5, fusion=fusion, score_threshold=scores[kept])
    assert ids_of(retriever.invoke(QUERY)) == [hit.document.id for hit in hits[:kept]]


def test_k_at_the_call_overrides_the_retrievers() -> None:
    retriever = make_retriever(k=2)
    everything = ids_of(retriever.invoke(QUERY, k=5))
    assert len(everything) == 5
    assert ids_of(retriever.invoke(QUERY)) == everything[:2]
    assert ids_of(retriever.invoke(QUERY, k=1)) == everything[:1]
    assert len(make_retriever().invoke(QUERY)) == 4


async def test_asynchronous_calls_return_what_synchronous_ones_do() -> None:
    retriever = make_retriever(k=2, fusion=ReciprocalRankFusion(), score_threshold=0.001)
    assert await retriever.ainvoke(QUERY) == retriever.invoke(QUERY)
    assert await retriever.ainvoke(QUERY, k=3) == retriever.invoke(QUERY, k=3)
    queries = [QUERY, "dogs", "", "서울"]
    expected = [retriever.invoke(query) for query in queries]
    assert retriever.batch(queries) == expected
    assert await retriever.abatch(queries) == expected
    assert await retriever.abatch(queries, k=1) == [documents[:1] for documents in expected]


@pytest.mark.parametrize("k", [0, -1])
async def test_k_below_1_is_refused_wherever_it_comes_from(k: int) -> None:
    with pytest.raises(ValidationError, match="k"):
        make_retriever(k=k)
    with pytest.raises(ValidationError, match="fetch_k"):
        make_retriever(fetch_k=k)
    with pytest.raises(InvalidInputError, match=f"k={k}"):
        make_retriever().invoke(QUERY, k=k)
    with pytest.raises(InvalidInputError, match=f"k={k}"):
        await make_retriever().ainvoke(QUERY, k=k)


async def test_unknown_fields_and_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="top_k"):
        make_retriever(top_k=3)
    with pytest.raises(TypeError, match="top_k"):
        make_retriever().invoke(QUERY, top_k=3)
    with pytest.raises(TypeError, match="top_k"):
        await make_retriever().ainvoke(QUERY, top_k=3)


def test_fusion_and_fetch_k_are_the_retrievers_or_else_the_stores() -> None:
    store = HybridVectorStore(HashEncoder(), fusion=lambda scores: np.arange(len(scores)))
    store.add_documents(DOCUMENTS)
    assert ids_of(HybridRetriever(store=store, k=5).invoke(QUERY)) == ["4", "3", "2", "1", "0"]
    own = HybridRetriever(store=store, k=1, fetch_k=1, fusion=lambda scores: -scores.dense)
    seen = store.search(QUERY, k=1, fetch_k=1, fusion=own.fusion)
    assert ids_of(own.invoke(QUERY)) == [hit.document.id for hit in seen]
    # With one candidate of either view the worst of all by dense is none of them.
    everything = store.search(QUERY, k=5, fusion=own.fusion)
    assert ids_of(own.invoke(QUERY)) != [everything[0].document.id]


def test_documents_keep_their_ids_and_the_file_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    retriever = make_retriever(path=path)
    before = retriever.invoke(QUERY)
    retriever.store.close()
    store = HybridVectorStore(HashEncoder(), path=path)
    assert HybridRetriever(store=store).invoke(QUERY) == before
    assert ids_of(store.get_by_ids([d.id for d in DOCUMENTS])) == [d.id for d in DOCUMENTS]
    store.close()


def test_documents_go_into_the_index_given() -> None:
    index = SQLiteIndex()
    assert make_retriever(index=index).store.index is index
    assert index.count() == 5


def test_an_empty_store_returns_no_documents() -> None:
    assert HybridRetriever.from_documents([], HashEncoder()).invoke(QUERY) == []


def test_it_is_a_step_of_a_chain() -> None:
    chain = make_retriever(k=1) | RunnableLambda(lambda documents: documents[0].page_content)
    assert chain.invoke("Tokyo") == DOCUMENTS[1].page_content


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.documents: Any = None
        self.error: BaseException | None = None

    def on_retriever_start(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
        self.metadata = metadata

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.documents = documents

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.error = error


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_traces_name_the_retriever_its_store_and_its_model(asynchronous: bool) -> None:
    store = HybridVectorStore(HashEncoder(model_name="org/model"))
    store.add_documents(DOCUMENTS)
    retriever = HybridRetriever(store=store)
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    if asynchronous:
        found = await retriever.ainvoke(QUERY, config)
    else:
        found = retriever.invoke(QUERY, config)
    assert recorder.documents == found
    assert (
        recorder.metadata.items()
        >= {
            "ls_retriever_name": "hybrid",
            "ls_vector_store_provider": "HybridVectorStore",
            "ls_embedding_model": "org/model",
        }.items()
    )


def test_an_error_reaches_caller_and_callbacks() -> None:
    retriever = make_retriever()
    retriever.store.close()
    recorder = Recorder()
    with pytest.raises(HybridIndexError, match="closed"):
        retriever.invoke(QUERY, {"callbacks": [recorder]})
    assert isinstance(recorder.error, HybridIndexError)
