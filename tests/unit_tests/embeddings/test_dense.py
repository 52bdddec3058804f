"""Plain LangChain embeddings as an encoder with the dense view alone."""

from __future__ import annotations

import pickle
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings

from langchain_hfembed import BGEM3Embeddings, InvalidInputError, InvalidResponseError
from langchain_hfembed.embeddings.dense import DenseEncoder, as_encoder


class LetterCounts(Embeddings):
    """How often each letter occurs; a query's vector has a 1 in front, a document's a 0."""

    def __init__(self, **names):
        self.calls = 0
        for name, value in names.items():
            setattr(self, name, value)

    def embed_documents(self, texts):
        self.calls += 1
        return [[0.0, *map(float, map(text.count, string.ascii_lowercase))] for text in texts]

    def embed_query(self, text):
        self.calls += 1
        return [1.0, *map(float, map(text.count, string.ascii_lowercase))]


texts = st.lists(st.text(string.ascii_lowercase + " \n한🚀"), max_size=8)


@given(texts)
def test_documents_and_queries_get_their_own_vectors_in_order(texts):
    plain, encoder = LetterCounts(), as_encoder(LetterCounts())
    documents = [embedding.dense.tolist() for embedding in encoder.encode_documents(texts)]
    streamed = [embedding.dense.tolist() for embedding in encoder.iter_encode_documents(texts)]
    queries = [embedding.dense.tolist() for embedding in encoder.encode_queries(texts)]
    assert documents == streamed == plain.embed_documents(texts) == encoder.embed_documents(texts)
    assert queries == [plain.embed_query(text) for text in texts]
    assert queries == [encoder.embed_query(text) for text in texts]


def test_there_is_the_dense_view_and_no_other():
    encoder = as_encoder(LetterCounts())
    assert encoder.views == ("dense",)
    [embedding] = encoder.encode_documents(["a"], views=["dense"])
    assert embedding.views == ("dense",)
    assert encoder.tokenize("a b") == []
    assert encoder.decode_token(7) == "7"


@pytest.mark.parametrize("views", [("sparse",), ("dense", "multi_vector")])
def test_a_view_that_plain_embeddings_lack_is_refused(views):
    encoder = as_encoder(LetterCounts())
    for encode in (
        encoder.encode_documents,
        encoder.encode_queries,
        lambda texts, views: list(encoder.iter_encode_documents(texts, views)),
    ):
        with pytest.raises(InvalidInputError, match="dense view alone"):
            encode(["a"], views)


def test_an_encoder_stays_what_it_is_and_loads_nothing():
    encoder = BGEM3Embeddings(model="/no/such/folder")
    assert as_encoder(encoder) is encoder
    dense = DenseEncoder(LetterCounts())
    assert as_encoder(dense) is dense


@pytest.mark.parametrize("thing", [None, "BAAI/bge-m3", object(), LetterCounts().embed_query])
def test_what_embeds_nothing_is_refused(thing):
    with pytest.raises(InvalidInputError, match="neither a LangChain Embeddings nor"):
        as_encoder(thing)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_vectors_than_of_texts_is_an_invalid_response(count):
    class Careless(LetterCounts):
        def embed_documents(self, texts):
            return [[1.0]] * count

    with pytest.raises(InvalidResponseError, match=f"{count} vectors for 2 texts"):
        as_encoder(Careless()).encode_documents(["a", "b"])


def test_no_texts_give_nothing_and_call_nothing():
    plain = LetterCounts()
    encoder = as_encoder(plain)
    assert encoder.encode_documents([]) == []
    assert encoder.encode_queries([]) == []
    assert list(encoder.iter_encode_documents([])) == []
    assert plain.calls == 0


@pytest.mark.parametrize(
    ("bad", "indices"), [("abc", ()), (None, ()), (["a", None], (1,)), (["a", "\ud800"], (1,))]
)
def test_what_is_no_list_of_texts_is_refused_before_anything_is_embedded(bad, indices):
    plain = LetterCounts()
    encoder = as_encoder(plain)
    for encode in (encoder.encode_documents, encoder.encode_queries):
        with pytest.raises(InvalidInputError) as caught:
            encode(bad)
        assert caught.value.indices == indices
    assert plain.calls == 0


def test_in_a_stream_the_texts_before_a_bad_one_are_not_lost():
    texts = ["a", "b", None, "c"]
    stream = as_encoder(LetterCounts()).iter_encode_documents(iter(texts))
    assert [next(stream).dense[1], next(stream).dense[2]] == [1, 1]
    with pytest.raises(InvalidInputError) as caught:
        next(stream)
    assert caught.value.indices == (2,)


def test_of_a_list_all_texts_are_checked_before_the_first_is_embedded():
    stream = as_encoder(LetterCounts()).iter_encode_documents(["a", "b", None, "c"])
    with pytest.raises(InvalidInputError) as caught:
        next(stream)
    assert caught.value.indices == (2,)


@pytest.mark.parametrize("vector", [None, [], [1.0, float("nan")], [[1.0]], "abc", {}])
def test_what_is_no_vector_is_an_invalid_response_with_its_position(vector):
    class Broken(LetterCounts):
        def embed_documents(self, texts):
            return [[1.0], vector]

        def embed_query(self, text):
            return vector if text == "b" else [1.0]

    encoder = as_encoder(Broken(model="broken-v1"))
    for encode in (encoder.encode_documents, encoder.encode_queries):
        with pytest.raises(InvalidResponseError, match=r"broken-v1.* text 1") as caught:
            encode(["a", "b"])
        assert caught.value.indices == (1,)


def test_streaming_reads_at_most_1024_texts_ahead():
    read = 0

    def many():
        nonlocal read
        for number in range(2500):
            read += 1
            yield f"text {number}"

    stream = as_encoder(LetterCounts()).iter_encode_documents(many())
    ahead = [read - position for position, _ in enumerate(stream)]
    assert len(ahead) == 2500
    assert max(ahead) <= 1024


@pytest.mark.parametrize("attribute", ["model_name", "model", "repo_id"])
def test_the_models_name_is_found_under_the_names_in_use(attribute):
    assert as_encoder(LetterCounts(**{attribute: "letters-v2"})).model_name == "letters-v2"


def test_without_a_models_name_the_class_gives_it():
    assert as_encoder(LetterCounts()).model_name == "LetterCounts"
    assert as_encoder(LetterCounts(model=3)).model_name == "LetterCounts"


def test_the_fingerprint_tells_models_and_classes_apart_and_objects_not():
    class OtherCounts(LetterCounts):
        pass

    one = as_encoder(LetterCounts(model="v1")).fingerprint
    assert as_encoder(LetterCounts(model="v1")).fingerprint == one
    assert as_encoder(LetterCounts(model="v2")).fingerprint != one
    assert as_encoder(OtherCounts(model="v1")).fingerprint != one


def test_an_encoder_around_embeddings_can_be_pickled():
    encoder = as_encoder(LetterCounts(model="v1"))
    arrived = pickle.loads(pickle.dumps(encoder))
    assert arrived.fingerprint == encoder.fingerprint
    assert np.array_equal(arrived.encode_queries(["abc"])[0].dense, encoder.embed_query("abc"))
