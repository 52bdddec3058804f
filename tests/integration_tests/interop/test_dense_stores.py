"""Our embeddings in LangChain's own store, FAISS, Chroma and Qdrant."""

from __future__ import annotations

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from tests.integration_tests.interop.helpers import ANSWERS, TEXTS

IDS = [f"id {number}" for number in range(len(TEXTS))]


def _answers(store) -> dict[str, str]:
    return {query: store.similarity_search(query, k=1)[0].page_content for query in ANSWERS}


async def _answers_async(store) -> dict[str, str]:
    return {
        query: (await store.asimilarity_search(query, k=1))[0].page_content for query in ANSWERS
    }


def test_the_in_memory_store_finds_each_answer(embeddings):
    assert _answers(InMemoryVectorStore.from_texts(TEXTS, embeddings)) == ANSWERS


async def test_the_in_memory_store_finds_each_answer_from_a_coroutine(embeddings):
    assert await _answers_async(await InMemoryVectorStore.afrom_texts(TEXTS, embeddings)) == ANSWERS


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
def test_faiss_finds_each_answer_also_after_it_was_saved_and_loaded(embeddings, tmp_path):
    from langchain_community.vectorstores import FAISS

    store = FAISS.from_texts(TEXTS, embeddings, ids=IDS)
    assert _answers(store) == ANSWERS
    store.save_local(str(tmp_path))
    # LangChain keeps the texts in a pickle, so that only files of one's own may be loaded.
    loaded = FAISS.load_local(str(tmp_path), embeddings, allow_dangerous_deserialization=True)
    assert _answers(loaded) == ANSWERS
    [(document, distance)] = loaded.similarity_search_with_score(TEXTS[0], k=1)
    assert (document.id, distance) == (IDS[0], pytest.approx(0, abs=1e-5))


def test_chroma_finds_each_answer_also_when_its_folder_is_opened_again(embeddings, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    from langchain_chroma import Chroma

    def opened():
        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(tmp_path), settings)
        return Chroma("texts", embeddings, client=client)

    opened().add_texts(TEXTS, ids=IDS)
    assert _answers(opened()) == ANSWERS
    assert sorted(opened().get()["ids"]) == IDS


def test_qdrant_finds_each_answer(embeddings):
    from langchain_qdrant import QdrantVectorStore

    assert _answers(QdrantVectorStore.from_texts(TEXTS, embeddings, location=":memory:")) == ANSWERS


def test_qdrants_batches_of_64_are_cut_to_what_the_server_takes(endpoint, server):
    from langchain_qdrant import QdrantVectorStore

    texts = [*TEXTS, *(f"text number {number}" for number in range(94))]
    store = QdrantVectorStore.from_texts(texts, endpoint, location=":memory:")
    sent = [entry for entry in server.record if entry.path == "/embed"]
    assert max(entry.inputs for entry in sent) == 32
    assert {entry.status for entry in sent} == {200}
    assert _answers(store) == ANSWERS
