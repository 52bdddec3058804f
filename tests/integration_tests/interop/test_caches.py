"""CacheBackedEmbeddings over our embeddings: what is computed once, and which vectors it mixes up.

The last test holds the documentation's warning true; if it fails, LangChain has changed.
"""

from __future__ import annotations

import pytest

from langchain_hfembed import (
    BGEM3Embeddings,
    HuggingFaceEmbeddings,
    HuggingFaceEndpointEmbeddings,
)
from tests.integration_tests.interop.helpers import TEXTS, Counted

TEXT = TEXTS[0]


@pytest.fixture(params=["bge_m3", "local", "endpoint"])
def prompted(request, minilm_folder, server, bge_m3, local):
    """Each of our dense embeddings, with different vectors of a query and of the same document."""
    if request.param == "bge_m3":
        return bge_m3.model_copy(update={"query_instruction": "query: "})
    if request.param == "local":
        return HuggingFaceEmbeddings(client=local._local_model().model, query_prompt="query: ")
    return HuggingFaceEndpointEmbeddings(
        model="org/model", endpoint_url=server.url, query_prompt="query: "
    )


@pytest.fixture
def cached(tmp_path):
    """As the documentation recommends: two folders, named by the model."""
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore

    def make(embeddings, name):
        return CacheBackedEmbeddings.from_bytes_store(
            embeddings,
            LocalFileStore(tmp_path / "documents"),
            query_embedding_cache=LocalFileStore(tmp_path / "queries"),
            namespace=name,
            key_encoder="blake2b",
        )

    return make


def test_a_second_call_and_a_second_process_compute_nothing(prompted, cached):
    vectors, query = prompted.embed_documents(TEXTS), prompted.embed_query(TEXT)
    for expected in ((TEXTS, [TEXT]), ([], [])):
        counted = Counted(prompted)
        cache = cached(counted, "name")  # a new object, as another process has one
        for _ in range(2):
            assert cache.embed_documents(TEXTS) == vectors
            assert cache.embed_query(TEXT) == query
        assert (counted.documents, counted.queries) == expected


async def test_coroutines_read_what_was_cached_before(prompted, cached):
    before = cached(prompted, "name")
    vectors, query = before.embed_documents(TEXTS), before.embed_query(TEXT)
    counted = Counted(prompted)
    cache = cached(counted, "name")
    assert await cache.aembed_documents(TEXTS) == vectors
    assert await cache.aembed_query(TEXT) == query
    assert (counted.documents, counted.queries) == ([], [])


def test_two_caches_tell_a_query_from_the_same_text_as_a_document(prompted, cached):
    cache = cached(prompted, "name")
    for _ in range(2):
        assert cache.embed_documents([TEXT]) == prompted.embed_documents([TEXT])
        assert cache.embed_query(TEXT) == prompted.embed_query(TEXT)
    assert cache.embed_query(TEXT) != cache.embed_documents([TEXT])[0]


@pytest.mark.parametrize(
    "ours", [BGEM3Embeddings, HuggingFaceEmbeddings, HuggingFaceEndpointEmbeddings]
)
def test_the_models_name_can_be_a_caches_namespace(ours, cached):
    name = "org/model-v1.5"
    embeddings = ours(model=name)
    assert embeddings.model == name
    # What LocalFileStore makes of the name, for which no model has to be loaded.
    cache = cached(embeddings, embeddings.model)
    cache.document_embedding_store.mset([(TEXT, [1.0])])
    assert cache.embed_documents([TEXT]) == [[1.0]]


def test_two_models_share_a_folder_and_no_vectors(cached, local):
    one, other = Counted(local), Counted(local)
    cached(one, "org/one").embed_documents(TEXTS)
    cached(other, "org/other").embed_documents(TEXTS)
    assert one.documents == other.documents == TEXTS


def test_one_cache_for_both_hands_out_the_documents_vector_for_a_query(prompted, tmp_path):
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore

    cache = CacheBackedEmbeddings.from_bytes_store(
        prompted,
        LocalFileStore(tmp_path),
        query_embedding_cache=True,
        namespace="name",
        key_encoder="blake2b",
    )
    [document] = cache.embed_documents([TEXT])
    assert cache.embed_query(TEXT) == document != prompted.embed_query(TEXT)
