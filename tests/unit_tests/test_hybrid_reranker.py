"""HybridReranker: its scores, its order, one encoding a call."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from pydantic import ValidationError

from langchain_hfembed import (
    HybridReranker,
    HybridVectorStore,
    InvalidInputError,
    ReciprocalRankFusion,
    WeightedSum,
    score,
)
from langchain_hfembed.fusion import fuse
from tests.encoders import HashEncoder

TEXTS = ["cats sleep in the sun", "dogs run in the park", "the park has a river", "cats run"]
QUERY = "cats in the park"


def _documents(texts=TEXTS):
    return [
        Document(id=str(n), page_content=text, metadata={"n": n}) for n, text in enumerate(texts)
    ]


def _ids(documents):
    return [document.id for document in documents]


@pytest.mark.parametrize(
    "fusion", [WeightedSum(), ReciprocalRankFusion(), lambda scores: -scores.dense]
)
def test_scores_are_the_fused_scores_of_all_documents(fusion):
    encoder = HashEncoder()
    [query] = encoder.encode_queries([QUERY])
    scores = score(query, encoder.encode_documents(TEXTS))
    fused = fuse(fusion, scores)
    found = HybridReranker(embedding=encoder, fusion=fusion, top_n=None).compress_documents(
        _documents(), QUERY
    )
    assert _ids(found) == [str(n) for n in np.argsort(-fused, kind="stable")]
    for document in found:
        n = document.metadata["n"]
        assert document.metadata["relevance_score"] == float(fused[n])
        assert document.metadata["scores"] == {
            "dense": float(scores.dense[n]),
            "sparse": float(scores.sparse[n]),
            "multi_vector": float(scores.multi_vector[n]),
        }


def test_it_ranks_as_a_store_of_the_same_documents_does():
    store = HybridVectorStore(HashEncoder())
    store.add_documents(_documents())
    reranked = HybridReranker(embedding=HashEncoder(), top_n=3).compress_documents(
        _documents(), QUERY
    )
    hits = store.search(QUERY, k=3)
    assert _ids(reranked) == [hit.document.id for hit in hits]
    assert [d.metadata["relevance_score"] for d in reranked] == pytest.approx(
        [hit.score for hit in hits],
        abs=1e-3,  # the store keeps float16
    )


def test_the_documents_of_a_call_are_encoded_together_in_one_call():
    calls = []

    class Counts(HashEncoder):
        def iter_encode_documents(self, texts, views=None):
            calls.append((list(texts), views))
            return super().iter_encode_documents(texts, views)

    HybridReranker(embedding=Counts()).compress_documents(_documents(), QUERY)
    assert calls == [(TEXTS, None)]


@pytest.mark.parametrize("views", [("dense",), ("sparse",), ("dense", "multi_vector")])
def test_an_absent_view_is_none_and_counts_for_nothing(views):
    [best] = HybridReranker(embedding=HashEncoder(views), top_n=1).compress_documents(
        _documents(), QUERY
    )
    present = {view for view, value in best.metadata["scores"].items() if value is not None}
    assert present == set(views)


def test_plain_embeddings_are_the_dense_view():
    fake = DeterministicFakeEmbedding(size=8)
    found = HybridReranker(embedding=fake, top_n=2).compress_documents(_documents(), TEXTS[2])
    assert found[0].id == "2"
    assert found[0].metadata["scores"]["sparse"] is None


def test_documents_are_copied_not_changed_and_equal_scores_keep_their_order():
    documents = _documents(["same"] * 5)
    found = HybridReranker(embedding=HashEncoder(), top_n=None).compress_documents(
        documents, "same"
    )
    assert _ids(found) == ["0", "1", "2", "3", "4"]
    assert documents == _documents(["same"] * 5)
    assert found[0] is not documents[0]


@pytest.mark.parametrize(("top_n", "expected"), [(2, 2), (99, 4), (None, 4)])
def test_so_many_are_kept(top_n, expected):
    reranker = HybridReranker(embedding=HashEncoder(), top_n=top_n)
    assert len(reranker.compress_documents(_documents(), QUERY)) == expected


def test_no_documents_give_none_and_encode_nothing():
    class Never(HashEncoder):
        def encode_queries(self, texts, views=None):
            raise AssertionError

    assert HybridReranker(embedding=Never()).compress_documents([], QUERY) == []


async def test_asynchronous_calls_give_the_same():
    reranker = HybridReranker(embedding=HashEncoder())
    assert await reranker.acompress_documents(_documents(), QUERY) == (
        reranker.compress_documents(_documents(), QUERY)
    )


def test_bad_input_is_named():
    reranker = HybridReranker(embedding=HashEncoder())
    with pytest.raises(InvalidInputError, match="the query is int"):
        reranker.compress_documents(_documents(), 7)
    with pytest.raises(ValidationError, match="neither a LangChain Embeddings"):
        HybridReranker(embedding="BAAI/bge-m3")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        HybridReranker(embedding=HashEncoder(), top_n=0)
    with pytest.raises(ValidationError, match="Extra inputs"):
        HybridReranker(embedding=HashEncoder(), k=3)
