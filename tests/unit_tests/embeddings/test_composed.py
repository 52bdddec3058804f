"""ComposedEncoder: each view from its own part, each part called once, and what can be a part."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_hfembed import (
    BGEM3Embeddings,
    ComposedEncoder,
    HuggingFaceEmbeddings,
    HuggingFaceEndpointEmbeddings,
    HuggingFaceEndpointSparseEmbeddings,
    HuggingFaceMultiVectorEmbeddings,
    HuggingFaceSparseEmbeddings,
)
from langchain_hfembed.embeddings import composed
from langchain_hfembed.embeddings.dense import DenseEncoder
from langchain_hfembed.errors import EmbeddingError, InvalidInputError, InvalidResponseError
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder

TEXTS = ["cats sleep in the sun", "dogs run in the park", ""]


class Recorder(HashEncoder):
    """Keeps what it was called with."""

    def __init__(self, views=VIEWS, **kwargs):
        super().__init__(views, **kwargs)
        self.calls = []

    def encode_documents(self, texts, views=None):
        self.calls.append(("documents", tuple(texts), views, threading.get_ident()))
        return super().encode_documents(texts, views)

    def encode_queries(self, texts, views=None):
        self.calls.append(("queries", tuple(texts), views, threading.get_ident()))
        return super().encode_queries(texts, views)


@pytest.fixture
def parts():
    return {view: Recorder(model_name=f"model of {view}") for view in VIEWS}


@pytest.fixture(params=["documents", "queries"])
def side(request):
    return request.param


def _encode(encoder, side, texts, views=None):
    return getattr(encoder, f"encode_{side}")(texts, views)


def _same(one, other):
    assert one.views == other.views
    for view in one.views:
        ours, theirs = getattr(one, view), getattr(other, view)
        if view == "sparse":
            assert ours.to_dict() == theirs.to_dict()
        else:
            np.testing.assert_array_equal(ours, theirs)


# Views and parts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "views", [VIEWS, ("dense", "sparse"), ("sparse", "multi_vector"), ("multi_vector",)]
)
def test_each_view_is_its_parts_own_and_an_absent_one_is_left_out(parts, side, views):
    encoder = ComposedEncoder(**{view: parts[view] for view in views})
    assert encoder.views == views
    found = _encode(encoder, side, TEXTS)
    for position, embedding in enumerate(found):
        assert embedding.views == views
        for view in views:
            expected = _encode(HashEncoder(), side, TEXTS)[position]
            _same(
                type(embedding)(**{view: getattr(embedding, view)}),
                type(embedding)(**{view: getattr(expected, view)}),
            )
    for view in views:
        assert [call[:3] for call in parts[view].calls] == [(side, tuple(TEXTS), (view,))]


def test_one_object_for_two_views_is_called_once(parts, side):
    both = parts["sparse"]
    encoder = ComposedEncoder(dense=parts["dense"], sparse=both, multi_vector=both)
    _encode(encoder, side, TEXTS)
    assert [call[:3] for call in both.calls] == [(side, tuple(TEXTS), ("sparse", "multi_vector"))]


def test_only_the_parts_of_the_views_asked_for_are_called(parts, side):
    encoder = ComposedEncoder(**parts)
    [embedding] = _encode(encoder, side, ["a"], ("sparse",))
    assert embedding.views == ("sparse",)
    assert not parts["dense"].calls
    assert not parts["multi_vector"].calls


def test_a_view_without_a_part_is_refused_before_anything_is_encoded(parts):
    encoder = ComposedEncoder(sparse=parts["sparse"])
    for encode in (encoder.encode_documents, encoder.encode_queries, encoder.iter_encode_documents):
        with pytest.raises(InvalidInputError, match="no part for dense, only for sparse"):
            encode(["a"], ("dense", "sparse"))
    assert not parts["sparse"].calls


def test_without_any_part_there_is_no_encoder():
    with pytest.raises(InvalidInputError, match="at least one"):
        ComposedEncoder()


def test_a_part_without_its_view_is_refused():
    with pytest.raises(InvalidInputError, match="has no sparse view, only dense"):
        ComposedEncoder(sparse=DeterministicFakeEmbedding(size=4))


def test_what_is_no_encoder_is_refused():
    for part in (7, HashEncoder, ["a/b"]):
        with pytest.raises(InvalidInputError, match=r"sparse=.* can't be a part.*SparseEncoder"):
            ComposedEncoder(sparse=part)
    for part in ("localhost:8080", "ftp://host", "host.org:80/embed"):
        with pytest.raises(InvalidInputError, match="a URL starts with http://"):
            ComposedEncoder(sparse=part)


def test_nothing_gives_nothing_and_calls_no_part(parts, side):
    assert _encode(ComposedEncoder(**parts), side, []) == []
    assert list(ComposedEncoder(**parts).iter_encode_documents(iter([]))) == []
    assert not any(part.calls for part in parts.values())


def test_what_is_no_text_is_refused_before_any_part_is_called(parts, side):
    with pytest.raises(InvalidInputError) as caught:
        _encode(ComposedEncoder(**parts), side, ["a", None])
    assert caught.value.indices == (1,)
    assert not any(part.calls for part in parts.values())


def test_what_one_part_would_refuse_is_refused_before_another_one_works(parts):
    sparse = HuggingFaceEndpointSparseEmbeddings(endpoint_url="http://localhost:1")
    encoder = ComposedEncoder(dense=parts["dense"], sparse=sparse)
    texts = ["a"] * 1100 + [""]
    for encode in (encoder.encode_documents, encoder.encode_queries):
        with pytest.raises(InvalidInputError, match="text 1100 is empty"):
            encode(texts)
    with pytest.raises(InvalidInputError, match="text 1100 is empty") as caught:
        next(encoder.iter_encode_documents(texts))
    assert caught.value.indices == (1100,)
    assert not parts["dense"].calls
    dense = HuggingFaceEndpointEmbeddings(endpoint_url="http://localhost:1")
    with pytest.raises(InvalidInputError, match="text 0 is empty"):
        ComposedEncoder(dense=dense, sparse=parts["sparse"]).encode_documents([""])
    assert not parts["sparse"].calls
    assert encoder.encode_documents(["a", ""], ("dense",))  # whom it is not for does not refuse


def test_a_part_that_loses_texts_is_found_out(parts, side):
    class Loses(HashEncoder):
        def encode_documents(self, texts, views=None):
            return super().encode_documents(texts, views)[1:]

        def encode_queries(self, texts, views=None):
            return super().encode_queries(texts, views)[1:]

    encoder = ComposedEncoder(dense=parts["dense"], sparse=Loses(model_name="lossy"))
    with pytest.raises(InvalidResponseError, match="lossy returned 2 embeddings for 3 texts"):
        _encode(encoder, side, TEXTS)


# Dense calls ----------------------------------------------------------------------------------


def test_langchains_calls_go_to_the_dense_part(parts):
    fake = DeterministicFakeEmbedding(size=4)
    encoder = ComposedEncoder(dense=fake, sparse=parts["sparse"])
    assert encoder.embed_documents(["a", "b"]) == fake.embed_documents(["a", "b"])
    assert encoder.embed_query("a") == fake.embed_query("a")
    assert not parts["sparse"].calls


async def test_asynchronous_calls_do_not_block_and_give_the_same():
    fake = DeterministicFakeEmbedding(size=4)
    encoder = ComposedEncoder(dense=fake)
    assert await encoder.aembed_documents(["a", "b"]) == fake.embed_documents(["a", "b"])
    assert await encoder.aembed_query("a") == fake.embed_query("a")


def test_without_a_dense_part_langchains_calls_say_so(parts):
    encoder = ComposedEncoder(sparse=parts["sparse"])
    for call in (lambda: encoder.embed_documents(["a"]), lambda: encoder.embed_query("a")):
        with pytest.raises(InvalidInputError, match=r"no dense view.*HybridVectorStore"):
            call()


# Concurrency ----------------------------------------------------------------------------------


class Meets(Embeddings):
    """Returns once all parts have been called: a deadlock, unless they run at the same time."""

    def __init__(self, barrier):
        self.barrier = barrier

    def embed_documents(self, texts):
        self.barrier.wait(10)
        return [[1.0, 2.0] for _ in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class MeetsRecorder(Recorder):
    def __init__(self, barrier, view):
        super().__init__((view,))
        self.barrier = barrier

    def encode_documents(self, texts, views=None):
        self.barrier.wait(10)
        return super().encode_documents(texts, views)


def test_parts_that_may_run_elsewhere_are_called_at_the_same_time(monkeypatch):
    barrier = threading.Barrier(3)
    local = MeetsRecorder(barrier, "sparse")
    monkeypatch.setattr(composed, "_runs_here", lambda part: part is local)
    other = MeetsRecorder(barrier, "multi_vector")
    encoder = ComposedEncoder(dense=Meets(barrier), sparse=local, multi_vector=other)
    [embedding] = encoder.encode_documents(["a"])
    assert embedding.views == VIEWS
    assert local.calls[0][3] == threading.get_ident()  # what runs here needs no thread


def test_parts_that_run_here_are_called_in_turn_by_the_callers_thread(parts, monkeypatch, side):
    monkeypatch.setattr(composed, "_runs_here", lambda _: True)
    _encode(ComposedEncoder(**parts), side, TEXTS)
    assert {part.calls[0][3] for part in parts.values()} == {threading.get_ident()}


def test_what_runs_here_is_known(xlmr_folder, splade_folder):
    def runs_here(part):
        return composed._runs_here(composed.as_encoder(part))

    bge = BGEM3Embeddings(model=xlmr_folder)
    here = [
        bge,
        HuggingFaceEmbeddings(model="a/b"),
        HuggingFaceSparseEmbeddings(model="a/b"),
        HuggingFaceMultiVectorEmbeddings(model="a/b"),
        ComposedEncoder(dense=bge),
    ]
    elsewhere = [
        DeterministicFakeEmbedding(size=4),
        HuggingFaceEndpointEmbeddings(model="http://localhost:1"),
        HuggingFaceEndpointSparseEmbeddings(endpoint_url="http://localhost:1"),
    ]
    assert [runs_here(part) for part in here] == [True] * 5
    elsewhere += [ComposedEncoder(dense=elsewhere[1])]
    assert [runs_here(part) for part in elsewhere] == [False] * 4


@pytest.mark.parametrize("here", [True, False])
def test_an_error_of_one_part_is_raised_as_it_is_once_the_others_have_ended(here, monkeypatch):
    ended = threading.Event()

    class Fails(Embeddings):
        def embed_documents(self, texts):
            raise EmbeddingError("no luck", indices=[1], completed={0: [1.0]})

        def embed_query(self, text):
            raise AssertionError

    class Slow(HashEncoder):
        def encode_documents(self, texts, views=None):
            found = super().encode_documents(texts, views)
            ended.wait(0.2)
            ended.set()
            return found

    slow = Slow(("sparse",))
    monkeypatch.setattr(composed, "_runs_here", lambda part: here and part is not slow)
    with pytest.raises(EmbeddingError, match=r"^dense: no luck") as caught:
        ComposedEncoder(dense=Fails(), sparse=slow).encode_documents(["a", "b"])
    assert caught.value.indices == (1,)
    assert caught.value.completed == {0: [1.0]}
    assert ended.is_set()


def test_dense_vectors_that_there_are_survive_the_failure_of_another_part():
    class Fails(HashEncoder):
        def encode_documents(self, texts, views=None):
            raise EmbeddingError("no luck", indices=[1], completed={0: [9.0]})

    encoder = ComposedEncoder(dense=HashEncoder(dim=2), sparse=Fails())
    with pytest.raises(EmbeddingError, match=r"^sparse: no luck") as caught:
        encoder.encode_documents(["a", "b"])
    vectors = HashEncoder(dim=2).embed_documents(["a", "b"])
    assert caught.value.completed == dict(enumerate(vectors))
    assert caught.value.indices == (1,)


def test_after_a_failure_here_no_other_part_here_is_started(parts, monkeypatch):
    class Fails(Embeddings):
        def embed_documents(self, texts):
            raise EmbeddingError("no luck")

        def embed_query(self, text):
            raise AssertionError

    monkeypatch.setattr(composed, "_runs_here", lambda _: True)
    with pytest.raises(EmbeddingError, match="no luck"):
        ComposedEncoder(dense=Fails(), sparse=parts["sparse"]).encode_documents(["a"])
    assert not parts["sparse"].calls


# Streams --------------------------------------------------------------------------------------


def test_a_stream_gives_what_a_list_gives_and_reads_no_further_than_it_must(parts, monkeypatch):
    monkeypatch.setattr("langchain_hfembed.embeddings.base._READ_AHEAD", 2)
    read = []

    def texts():
        for number in range(5):
            read.append(number)
            yield f"text {number}"

    encoder = ComposedEncoder(**parts)
    stream = encoder.iter_encode_documents(texts())
    first = next(stream)
    assert len(read) == 2
    expected = ComposedEncoder(**parts).encode_documents([f"text {n}" for n in range(5)])
    for one, other in zip([first, *stream], expected, strict=True):
        _same(one, other)


# Tokens, names, fingerprints ------------------------------------------------------------------


def test_tokens_are_those_of_the_part_whose_view_they_explain(parts):
    class Named(HashEncoder):
        def tokenize(self, text, *, is_query=False):
            return [f"{self.model_name}: {text}: {is_query}"]

        def decode_token(self, token_id):
            return f"{self.model_name}: {token_id}"

    encoder = ComposedEncoder(
        dense=Named(), sparse=Named(model_name="s"), multi_vector=Named(model_name="m")
    )
    assert encoder.tokenize("a", is_query=True) == ["m: a: True"]
    assert encoder.decode_token(7) == "s: 7"


def test_without_a_part_there_are_no_tokens(parts):
    encoder = ComposedEncoder(dense=parts["dense"])
    assert encoder.tokenize("a") == []
    assert encoder.decode_token(7) == "7"


def test_the_name_names_each_part_once(parts):
    both = parts["sparse"]
    encoder = ComposedEncoder(dense=parts["dense"], sparse=both, multi_vector=both)
    assert encoder.model_name == encoder.model == "model of dense + model of sparse"


def test_the_fingerprint_differs_with_a_part_and_with_its_view():
    a, b = HashEncoder(model_name="a"), HashEncoder(model_name="b")
    encoders = [
        ComposedEncoder(dense=a, sparse=b),
        ComposedEncoder(dense=b, sparse=a),
        ComposedEncoder(dense=a),
        ComposedEncoder(sparse=a),
        ComposedEncoder(dense=HashEncoder(("dense",), model_name="a"), sparse=a),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
    again = ComposedEncoder(dense=HashEncoder(model_name="a"), sparse=HashEncoder(model_name="b"))
    assert again.fingerprint == encoders[0].fingerprint


def test_dense_endpoints_are_told_apart_by_model_and_what_changes_documents():
    def fingerprint(**arguments):
        dense = HuggingFaceEndpointEmbeddings(endpoint_url="http://localhost:1", **arguments)
        return ComposedEncoder(dense=dense).fingerprint

    base = fingerprint(model="org/x")
    assert fingerprint(model="org/x", query_prompt="q: ", batch_size=3) == base
    others = [
        fingerprint(model="org/y"),
        fingerprint(model="org/x", document_prompt="d: "),
        fingerprint(model="org/x", document_prompt_name="d"),
        fingerprint(model="org/x", dimensions=8),
    ]
    assert len({base, *others}) == 5


def test_a_fingerprint_of_another_kind_is_not_taken_for_one():
    class Odd(DeterministicFakeEmbedding):
        def fingerprint(self):
            return "a method"

    assert isinstance(ComposedEncoder(dense=Odd(size=4)).fingerprint, str)


def test_making_an_encoder_reads_no_checkpoint(tmp_path):
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import InMemoryByteStore

    cached = CacheBackedEmbeddings.from_bytes_store(
        BGEM3Embeddings(model=tmp_path / "none"), InMemoryByteStore(), key_encoder="sha256"
    )
    assert ComposedEncoder(dense=cached).model_name == str(tmp_path / "none")


def test_a_class_of_the_users_own_is_not_taken_for_sentence_transformers():
    class SparseEncoder(HashEncoder):
        pass

    assert ComposedEncoder(sparse=SparseEncoder()).encode_queries(["a"])[0].sparse is not None


def test_one_encoder_for_all_its_views_is_no_other_one_composed():
    a = HashEncoder()
    whole = ComposedEncoder(dense=a, sparse=a, multi_vector=a)
    assert whole.fingerprint == a.fingerprint
    assert ComposedEncoder(dense=a, sparse=a).fingerprint != a.fingerprint


def test_its_repr_names_the_parts(parts):
    assert repr(ComposedEncoder(dense=parts["dense"], sparse=parts["sparse"])) == (
        "ComposedEncoder(dense='model of dense', sparse='model of sparse')"
    )


def test_a_pickle_encodes_alike(parts):
    encoder = ComposedEncoder(dense=HashEncoder(), sparse=HashEncoder())
    copied = pickle.loads(pickle.dumps(encoder))
    assert copied.fingerprint == encoder.fingerprint
    _same(copied.encode_documents(["a"])[0], encoder.encode_documents(["a"])[0])


# What can be a part ---------------------------------------------------------------------------


def test_names_and_urls_become_parts():
    encoder = ComposedEncoder(
        dense="a/dense", sparse="http://localhost:8080", multi_vector="a/colbert"
    )
    assert isinstance(encoder._parts.dense, DenseEncoder)
    assert isinstance(encoder._parts.dense.embeddings, HuggingFaceEmbeddings)
    assert encoder._parts.dense.model_name == "a/dense"
    assert isinstance(encoder._parts.sparse, HuggingFaceEndpointSparseEmbeddings)
    assert encoder._parts.sparse.endpoint_url == "http://localhost:8080"
    assert isinstance(encoder._parts.multi_vector, HuggingFaceMultiVectorEmbeddings)
    assert isinstance(ComposedEncoder(sparse="a/splade")._parts.sparse, HuggingFaceSparseEmbeddings)
    remote = ComposedEncoder(dense="https://host/embed")._parts.dense
    assert isinstance(remote.embeddings, HuggingFaceEndpointEmbeddings)


def test_no_server_gives_token_vectors():
    with pytest.raises(InvalidInputError, match=r"no server is known.*MultiVectorEncoder"):
        ComposedEncoder(multi_vector="http://localhost:8080")


def test_loaded_models_of_sentence_transformers_become_parts(
    minilm_folder, splade_folder, colbert_folder
):
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

    dense = SentenceTransformer(str(minilm_folder), device="cpu")
    sparse = SparseEncoder(str(splade_folder), device="cpu")
    colbert = MultiVectorEncoder(str(colbert_folder), device="cpu")
    encoder = ComposedEncoder(dense=dense, sparse=sparse, multi_vector=colbert)
    [embedding] = encoder.encode_queries(["the sea"])
    np.testing.assert_allclose(embedding.dense, dense.encode_query("the sea"), atol=1e-6)
    theirs = sparse.encode_query("the sea").coalesce()
    assert embedding.sparse.indices.tolist() == theirs.indices()[0].tolist()
    rows = colbert.encode_query("the sea", convert_to_numpy=True)
    np.testing.assert_allclose(embedding.multi_vector, rows, atol=1e-6)
    with pytest.raises(InvalidInputError, match="dense= takes a SentenceTransformer, not a Sparse"):
        ComposedEncoder(dense=sparse)


def test_bge_m3_gives_two_views_in_one_pass_beside_another_model(xlmr_folder, monkeypatch):
    bge = BGEM3Embeddings(model=xlmr_folder)
    passes = []
    [engine] = bge._engines()
    start = engine.start
    monkeypatch.setattr(
        engine, "start", lambda batch, views: passes.append(views) or start(batch, views)
    )
    encoder = ComposedEncoder(
        dense=DeterministicFakeEmbedding(size=4), sparse=bge, multi_vector=bge
    )
    [embedding] = encoder.encode_documents(["the sea"])
    assert passes == [("sparse", "multi_vector")]
    [whole] = bge.encode_documents(["the sea"])
    np.testing.assert_array_equal(embedding.multi_vector, whole.multi_vector)
    assert embedding.dense.shape == (4,)


def test_closing_closes_what_can_be_closed_and_is_repeatable():
    closed = []

    class Local(HuggingFaceEmbeddings):
        def close(self):
            closed.append("local")

    class Sparse(HuggingFaceEndpointSparseEmbeddings):
        def close(self):
            closed.append("endpoint")

    with ComposedEncoder(
        dense=Local(model="a/b"),
        sparse=Sparse(endpoint_url="http://localhost:1"),
        multi_vector=HashEncoder(),
    ) as encoder:
        pass
    encoder.close()
    assert closed == ["local", "endpoint"] * 2


def test_a_cached_endpoint_is_closed_too():
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import InMemoryByteStore

    closed = []

    class Dense(HuggingFaceEndpointEmbeddings):
        def close(self):
            closed.append("endpoint")

    cached = CacheBackedEmbeddings.from_bytes_store(
        Dense(endpoint_url="http://localhost:1"), InMemoryByteStore(), key_encoder="sha256"
    )
    ComposedEncoder(dense=cached).close()
    assert closed == ["endpoint"]


async def test_it_can_be_closed_asynchronously():
    closed = []

    class Sparse(HuggingFaceEndpointSparseEmbeddings):
        def close(self):
            closed.append(threading.get_ident())

    async with ComposedEncoder(sparse=Sparse(endpoint_url="http://localhost:1")):
        pass
    assert len(closed) == 1
    assert closed[0] != threading.get_ident()


class TestStandard(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return ComposedEncoder

    @property
    def embedding_model_params(self):
        return {"dense": DeterministicFakeEmbedding(size=4), "sparse": HashEncoder(("sparse",))}
