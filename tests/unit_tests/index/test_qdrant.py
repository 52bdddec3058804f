"""What a `QdrantIndex` stores, finds and refuses, in a folder and through qdrant-client."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_hfembed import (
    HybridEmbedding,
    HybridIndexError,
    HybridVectorStore,
    IndexMismatchError,
    IndexRecord,
    InvalidInputError,
    QdrantIndex,
    SparseVector,
    SQLiteIndex,
    copy_index,
)
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.index.filters import parse_filter
from langchain_hfembed.index.qdrant.plan import Engine
from langchain_hfembed.scoring import unit_embedding
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder
from tests.encoders import records as records_of

qdrant_client = pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")

ENCODER = HashEncoder()
TEXTS = {"one": "red apple", "two": "green apple tree", "three": "blue sky"}
Open = Callable[..., QdrantIndex]


@pytest.fixture(params=["edge", "local"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same index, as often as it is called."""
    client = qdrant_client.QdrantClient(":memory:")
    opened: list[QdrantIndex] = []

    def open_(**arguments: Any) -> QdrantIndex:
        for index in opened:
            index.close()
        place = {"path": tmp_path / "made" / "index"} if request.param == "edge" else {}
        opened.append(QdrantIndex("docs", **(place or {"client": client}), **arguments))
        return opened[-1]

    yield open_
    for index in opened:
        index.close()
    client.close()


@pytest.fixture
def index(open_index: Open) -> QdrantIndex:
    index = open_index(multi_vector_dtype="float32")
    index.upsert(records_of(ENCODER, TEXTS, year=2024))
    return index


def _query(text: str = "red sky") -> HybridEmbedding:
    return ENCODER.encode_queries([text])[0]


def _record(id_: str, vectors: HybridEmbedding | None = None, **metadata: Any) -> IndexRecord:
    return IndexRecord(
        id_, f"text of {id_}", metadata, vectors or ENCODER.encode_documents([id_])[0]
    )


def _ids(index: QdrantIndex) -> list[str]:
    return [record.id for record in index.records(())]


# What goes in comes out -----------------------------------------------------------------------


def test_documents_come_back_as_they_were_in_the_order_of_storing(index: QdrantIndex):
    given = records_of(ENCODER, TEXTS, year=2024)
    for found in (list(index.records()), index.get([*TEXTS], views=VIEWS)):
        assert [(r.id, r.text, r.metadata) for r in found] == [
            (r.id, r.text, r.metadata) for r in given
        ]
        for mine, theirs in zip(found, given, strict=True):
            unit = unit_embedding(theirs.embedding)
            np.testing.assert_allclose(mine.embedding.dense, unit.dense, atol=1e-6)
            np.testing.assert_allclose(mine.embedding.multi_vector, unit.multi_vector, atol=1e-6)
            assert mine.embedding.sparse.to_dict() == unit.sparse.to_dict()


@pytest.mark.parametrize("views", [(), ("sparse",), ("dense", "multi_vector")])
def test_only_the_views_that_were_asked_for_come_back(index: QdrantIndex, views):
    assert index.get(["two"], views=views)[0].embedding.views == views
    assert all(record.embedding.views == views for record in index.records(views))


def test_metadata_survives_whatever_numbers_qdrant_has(open_index: Open):
    strange = {"huge": 10**400, "big": 2**64 + 1, "float": 1.0, "a.b": {"": [None, "\ud800"]}}
    index = open_index()
    index.upsert([_record("\0 é 😀", **strange)])
    [record] = index.get(["\0 é 😀"])
    assert repr(record.metadata) == repr(strange)


def test_get_keeps_the_order_of_the_ids_and_leaves_out_unknown_ones(index: QdrantIndex):
    asked = ["three", "nobody", "\ud800", "one", "three"]
    assert [record.id for record in index.get(asked)] == ["three", "one", "three"]


def test_more_documents_than_a_page_come_back_once_each(open_index: Open):
    index = open_index()
    index.upsert([_record(str(number)) for number in range(150)])
    assert _ids(index) == [str(number) for number in range(150)]
    assert [record.id for record in index.records()] == _ids(index)
    assert len(index.get([str(number) for number in range(150)])) == 150


def test_texts_alone_come_a_thousand_at_a_time(index: QdrantIndex):
    index.upsert([_record(str(number)) for number in range(150)])
    counted = _Counted(index._engine)
    index._engine = counted  # type: ignore[assignment]
    assert len(_ids(index)) == 153
    assert counted.calls.count("page") == 1


@pytest.mark.parametrize("views", [(), VIEWS])
def test_reading_all_ends_where_a_reader_stores_again_what_it_reads(index: QdrantIndex, views):
    index.upsert([_record(str(number)) for number in range(30)])
    vectors = ENCODER.encode_documents(["again"])[0]
    read = []
    for record in index.records(views):
        assert len(read) < 100, "it never ends"
        read.append(record.id)
        index.upsert([IndexRecord(record.id, "again", {}, vectors)])
    assert len(read) == len({*read})
    assert index.count() == 33


def test_pages_meet_documents_that_two_writers_gave_one_number(open_index: Open, monkeypatch):
    monkeypatch.setattr("langchain_hfembed.index.qdrant.index.time.time_ns", lambda: 10**15)
    for writer in "abc":
        index = open_index()
        index.upsert([_record(f"{writer}{number}") for number in range(50)])
    assert sorted(_ids(index)) == sorted(f"{w}{number}" for w in "abc" for number in range(50))


def test_the_last_of_several_documents_with_one_id_wins(index: QdrantIndex):
    index.upsert([_record("x", turn=1), _record("y"), _record("x", turn=2)])
    assert index.get(["x"])[0].metadata == {"turn": 2}
    assert index.count() == 5


def test_a_replaced_document_leaves_no_ghost_and_goes_to_the_end(index: QdrantIndex):
    index.upsert([IndexRecord("one", "new", {"year": 1}, ENCODER.encode_documents(["cloud"])[0])])
    assert index.count() == 3
    assert _ids(index) == ["two", "three", "one"]
    assert index.candidates(_query(), 9) == ["two", "three", "one"]
    assert index.candidates(_query(), 9, parse_filter({"year": 2024})) == ["two", "three"]
    assert index.candidates(_query(), 9, parse_filter({"year": {"$lt": 2000}})) == ["one"]
    assert index.score(_query("red"), ["one"]).sparse.tolist() == [0]


def test_a_removed_document_leaves_no_ghost(index: QdrantIndex):
    index.delete(["one", "nobody", "\ud800"])
    assert index.count() == 2
    assert index.get(["one"]) == []
    assert _ids(index) == index.candidates(_query(), 9) == ["two", "three"]


def test_an_index_without_documents_still_knows_its_model(open_index: Open, index: QdrantIndex):
    index.delete()
    assert index.count() == 0
    assert index.search(_query(), 5).ids == []
    assert index.candidates(ENCODER.encode_queries(["a"], ("sparse",))[0], 5) == []
    with pytest.raises(IndexMismatchError, match="views"):
        open_index().upsert([_record("x", HybridEmbedding(dense=np.ones(32)))])


def test_nothing_is_found_before_the_first_document(open_index: Open):
    index = open_index()
    found = index.search(_query(), 5)
    assert (found.ids, found.records([]), found.scores.dense.shape) == ([], [], (0,))
    assert (index.count(), index.get(["x"]), _ids(index)) == (0, [], [])
    index.delete()
    index.delete(["x"])
    index.upsert([])
    assert index.model is None


# Searching ------------------------------------------------------------------------------------


def test_a_store_works_over_it(open_index: Open):
    store = HybridVectorStore(ENCODER, open_index())
    store.add_texts([*TEXTS.values()], [{"n": n} for n in range(3)], ids=[*TEXTS])
    assert store.similarity_search("green tree", k=1)[0].page_content == "green apple tree"
    [hit] = store.search("apple", k=3, filter={"n": {"$gte": 1}, "$not": {"n": 2}})
    assert hit.document.id == "two"
    assert store.explain("green", "two").scores.sparse == pytest.approx(0.5)


def test_the_score_of_no_shared_word_is_0(index: QdrantIndex):
    scores = index.score(_query("green tree"), ["three", "two", "three"])
    assert scores.sparse.tolist() == pytest.approx([0, 1, 0])
    assert scores.dense[0] == scores.dense[2] < scores.dense[1]


@pytest.mark.parametrize("id_", ["nobody", "\ud800"])
def test_scoring_a_document_that_is_not_there_names_it(index: QdrantIndex, open_index: Open, id_):
    with pytest.raises(InvalidInputError, match=r"no document '(nobody|.ud800)'"):
        index.score(_query(), ["one", id_])


def test_a_sparse_query_finds_all_where_they_are_few_and_only_sharing_ones_else(index: QdrantIndex):
    query = ENCODER.encode_queries(["sky"], ("sparse",))[0]
    assert index.candidates(query, 3) == ["one", "two", "three"]
    assert index.candidates(query, 2) == ["three"]
    assert index.candidates(HybridEmbedding(sparse=SparseVector.from_dict({})), 2) == []
    assert index.candidates(query, 0) == []


class _Counted:
    """An engine whose queries are counted, and which something happens between."""

    def __init__(self, engine: Engine, between: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._between = between
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name != "require_open":
                self.calls.append(name)
            result = getattr(self._engine, name)(*arguments)
            if self.calls == ["query_batch"]:
                self._between()
            return result

        value = getattr(self._engine, name)
        return call if callable(value) else value


@pytest.mark.parametrize("views", [VIEWS, ("dense",), ("sparse",), ("multi_vector",)])
def test_a_search_is_two_requests_and_its_texts_need_no_third(index: QdrantIndex, views):
    counted = _Counted(index._engine)
    index._engine = counted  # type: ignore[assignment]
    query = ENCODER.encode_queries(["red sky"], views)[0]
    found = index.search(query, 5, parse_filter({"year": 2024}))
    texts = [record.text for record in found.records(range(len(found.ids)))]
    assert texts == [TEXTS[id_] for id_ in found.ids]
    assert len(texts) == 3
    assert counted.calls == ["query_batch", "query_batch"]


@pytest.mark.parametrize("views", [VIEWS, ("sparse",), ("multi_vector",)])
def test_a_document_removed_between_the_two_is_left_out(index: QdrantIndex, views):
    engine = index._engine
    index._engine = _Counted(engine, lambda: engine.delete(_only("two")))  # type: ignore[assignment]
    found = index.search(ENCODER.encode_queries(["apple"], views)[0], 5)
    assert found.ids == ["one", "three"]
    assert len(found.scores) == 2


def _only(id_: str) -> Any:
    from langchain_hfembed.index.qdrant.payload import point_id
    from langchain_hfembed.index.qdrant.plan import HasId

    return HasId((point_id(id_),))  # type: ignore[arg-type]


# Models ---------------------------------------------------------------------------------------


def _model(name: str = "hash", views: Any = VIEWS) -> IndexModel:
    return IndexModel(name, f"fingerprint of {name}", views)


def test_an_index_remembers_its_model_and_refuses_others(open_index: Open):
    index = open_index()
    index.bind(_model())
    index.upsert([_record("a")])
    again = open_index()
    assert again.model == _model()
    with pytest.raises(IndexMismatchError, match="'hash', this is 'other'"):
        again.bind(_model("other"))
    with pytest.raises(IndexMismatchError, match="holds the views"):
        again.bind(_model(views=("dense",)))
    again.bind(_model())
    with pytest.raises(IndexMismatchError):
        again.bind(_model("other"))


def _two(client: Any, **arguments: Any) -> tuple[QdrantIndex, QdrantIndex]:
    """Two objects over one collection, as two processes have them; the second may have others."""
    return QdrantIndex("docs", client=client), QdrantIndex("docs", client=client, **arguments)


def test_a_model_that_was_bound_before_the_collection_was_made_is_held_against_it():
    first, second = _two(qdrant_client.QdrantClient(":memory:"))
    first.bind(_model("one"))
    second.bind(_model("other"))
    first.upsert([_record("a")])
    with pytest.raises(IndexMismatchError, match="made by the model 'one', this is 'other'"):
        second.upsert([_record("b")])
    assert _ids(first) == ["a"]


class _Late:
    """An engine before whose `create` something else happens."""

    def __init__(self, engine: Engine, before: Callable[[], None]) -> None:
        self._engine = engine
        self._before = before

    def __getattr__(self, name: str) -> Any:
        if name == "create":
            self._before()
        return getattr(self._engine, name)


def _race(first: QdrantIndex, second: QdrantIndex) -> None:
    """The second finds no collection; the first then makes it and stores a document."""
    engine = _Late(second._engine, lambda: first.upsert([_record("a")]))
    second._collection._engine = engine  # type: ignore[assignment]
    second.upsert([_record("b")])


def test_the_slower_of_two_that_make_a_collection_goes_on_with_what_it_has():
    client = qdrant_client.QdrantClient(":memory:")
    second, first = _two(client, token_pooling=2)
    first.bind(_model("one"))
    _race(first, second)
    assert sorted(_ids(first)) == ["a", "b"]
    for index in (second, QdrantIndex("docs", client=client)):
        assert index._collection.properties()["token_pooling"] == "2"
        assert index.model == _model("one")


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        ({}, "other", "made by the model 'one', this is 'other'"),
        ({"token_pooling": 2}, "one", "has token_pooling=1, not 2"),
        ({"multi_vector_dtype": "float32"}, "one", "has multi_vector_dtype=float16, not float32"),
    ],
)
def test_the_slower_of_two_is_refused_where_it_does_not_fit(arguments, model, message):
    first, second = _two(qdrant_client.QdrantClient(":memory:"), **arguments)
    first.bind(_model("one"))
    second.bind(_model(model))
    with pytest.raises(HybridIndexError, match=message):
        _race(first, second)
    assert _ids(first) == ["a"]
    assert first.model == _model("one")


def test_documents_that_came_before_their_properties_were_read_are_not_anothers():
    """The first read finds nothing, and then another writer makes the collection."""
    client = qdrant_client.QdrantClient(":memory:")
    first, second = _two(client)
    first.upsert([_record("a")])
    engine, missed = second._engine, [[]]
    second._collection._engine = _Patched(
        engine, retrieve=lambda *asked: missed.pop() if missed else engine.retrieve(*asked)
    )
    assert second.count() == 1


class _Patched:
    def __init__(self, engine: Engine, **methods: Any) -> None:
        self._engine = engine
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def test_an_index_of_a_later_format_is_refused(open_index: Open, monkeypatch):
    from langchain_hfembed.index.qdrant import collection

    with monkeypatch.context() as later:
        later.setattr(collection, "_FORMAT", 2)
        open_index().upsert([_record("a")])
    with pytest.raises(HybridIndexError, match=r"format 2, this version reads 1 .*--upgrade"):
        open_index().count()


def test_what_does_not_fit_stores_nothing_of_its_batch(index: QdrantIndex):
    good, other = _record("good"), HybridEmbedding(np.ones(7), SparseVector.from_dict({1: 1}))
    wide = HybridEmbedding(np.ones(7), other.sparse, np.ones((1, 32)))
    for bad in (_record("x", other), _record("x", wide), _record("x", HybridEmbedding())):
        with pytest.raises(IndexMismatchError, match="Nothing of its batch was stored"):
            index.upsert([good, bad])
    with pytest.raises(InvalidInputError, match="'when'"):
        index.upsert([good, _record("x", when=b"bytes")])
    with pytest.raises(InvalidInputError, match="surrogate"):
        index.upsert([good, _record("\ud800")])
    assert index.count() == 3


def test_a_first_batch_that_does_not_fit_makes_no_collection(open_index: Open):
    index = open_index()
    with pytest.raises(InvalidInputError, match="no view"):
        index.upsert([_record("x", HybridEmbedding())])
    with pytest.raises(IndexMismatchError):
        index.upsert([_record("a"), _record("b", HybridEmbedding(dense=np.ones(2)))])
    assert not index._engine.exists()


def test_a_query_of_another_model_is_refused(index: QdrantIndex):
    with pytest.raises(IndexMismatchError, match="dense_dim 32, the query 3"):
        index.search(HybridEmbedding(dense=np.ones(3)), 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multi_vector_dtype": "float16"}, "has multi_vector_dtype=float32, not float16; leave"),
        ({"token_pooling": 2}, "has token_pooling=1, not 2; leave"),
    ],
)
def test_another_compression_is_refused(open_index: Open, index: QdrantIndex, arguments, message):
    with pytest.raises(HybridIndexError, match=message):
        open_index(**arguments).count()
    assert open_index().count() == 3


@pytest.mark.parametrize(("dtype", "loss"), [("float16", 1e-3), ("float32", 1e-6)])
def test_scores_are_those_of_pooled_tokens(open_index: Open, dtype, loss):
    from langchain_hfembed.pooling import pool_tokens

    rng = np.random.default_rng(0)
    tokens = unit_embedding(HybridEmbedding(multi_vector=rng.normal(size=(9, 32)))).multi_vector
    index = open_index(multi_vector_dtype=dtype, token_pooling=2)
    index.upsert([_record("a", HybridEmbedding(multi_vector=tokens))])
    query = unit_embedding(HybridEmbedding(multi_vector=rng.normal(size=(3, 32))))
    [score] = index.score(query, ["a"]).multi_vector
    expected = (query.multi_vector @ pool_tokens(tokens, 2).T).max(axis=1).mean()
    assert score == pytest.approx(expected, abs=loss)


# Opening and closing ----------------------------------------------------------------------------


def test_a_closed_index_says_so(index: QdrantIndex):
    index.close()
    index.close()
    for use in (
        index.count,
        lambda: index.search(_query(), 5),
        lambda: index.upsert([_record("x")]),
        index.delete,
        lambda: index.get(["one"]),
        lambda: list(index.records()),
        lambda: index.model,
    ):
        with pytest.raises(HybridIndexError, match="is closed; open it again"):
            use()


def test_it_closes_with_its_block_and_opens_again(open_index: Open):
    with open_index() as index:
        index.upsert([_record("a")])
        with index.snapshot():
            assert index.count() == 1
    assert open_index().count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of path, url and client; got none"),
        ({"url": "http://x", "path": "y"}, "got path and url"),
        ({"path": "x", "api_key": "k"}, "api_key has no meaning with path"),
        ({"path": "x", "shard_number": 3}, "shard_number has no meaning with path"),
        ({"client": "http://x"}, "client is a str"),
        ({"path": "x", "multi_vector_dtype": "int8"}, "multi_vector_dtype='int8'"),
        ({"path": "x", "token_pooling": 0}, "token_pooling=0"),
        ({"path": "x", "batch_bytes": 0}, "batch_bytes=0 must be 1 or more"),
        ({"url": "http://x", "max_retries": -1}, "max_retries=-1 must be 0 or more"),
        ({"url": "http://x", "timeout": 0}, "timeout=0 must be above 0"),
        ({"url": "ftp://x"}, "url='ftp://x' is no server's URL"),
    ],
)
def test_arguments_that_make_no_sense_say_what_would(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        QdrantIndex(**arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://me:secret@x", "https://secret@x", "me:secret@x:6333", "http://me:s/secret@x"]
)
def test_a_url_with_a_password_is_refused_without_showing_it(url):
    with pytest.raises(InvalidInputError, match="pass api_key") as raised:
        QdrantIndex(url=url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("place", ["edge", "local"])
def test_a_quantisation_of_the_other_kind_says_so(place, tmp_path):
    wrong = {"edge": "qdrant_client", "local": "qdrant_edge"}[place]
    client = qdrant_client.QdrantClient(":memory:")
    edge = pytest.importorskip("qdrant_edge")
    models = {
        "qdrant_client": qdrant_client.models.ScalarQuantizationConfig(type="int8"),
        "qdrant_edge": edge.ScalarQuantizationConfig(edge.ScalarType.Int8),
    }
    where = {"path": tmp_path / "new"} if place == "edge" else {"client": client}
    with QdrantIndex(**where, quantization_config=models[wrong]) as index:
        with pytest.raises(InvalidInputError, match=r"quantization_config is a .*Scalar.*must be"):
            index.upsert([_record("a")])
        assert not index._engine.exists()
    client.close()


def test_it_says_where_it_is_and_is_not_pickled(index: QdrantIndex):
    assert repr(index).startswith("QdrantIndex('")
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(index)


# qdrant-client alone ---------------------------------------------------------------------------


def _foreign() -> Any:
    from qdrant_client import models

    client = qdrant_client.QdrantClient(":memory:")
    size = models.VectorParams(size=32, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config={"dense": size})
    client.upsert("docs", [models.PointStruct(id=1, vector={"dense": [1.0] * 32}, payload={})])
    return client


def test_another_programs_collection_is_refused_and_left_as_it_was():
    client = _foreign()
    index = QdrantIndex("docs", client=client)
    for use in (
        index.count,
        index.delete,
        lambda: index.upsert([_record("x", HybridEmbedding(dense=np.ones(32)))]),
        lambda: index.search(HybridEmbedding(dense=np.ones(32)), 5),
    ):
        with pytest.raises(HybridIndexError, match="docs at local mode holds points of another"):
            use()
    assert client.count("docs").count == 1


@pytest.mark.parametrize(("dim", "fits"), [(32, True), (31, False)])
def test_an_empty_collection_is_taken_where_it_is_as_it_would_be_made(dim, fits):
    """A process was killed after it made the collection, or somebody made it by hand."""
    client = _foreign()
    client.delete("docs", [1])
    index = QdrantIndex("docs", client=client)
    record = _record("x", HybridEmbedding(dense=np.ones(dim)))
    assert index.count() == 0
    if fits:
        index.upsert([record])
        assert index.count() == 1
    else:
        with pytest.raises(HybridIndexError, match="made with other vectors"):
            index.upsert([record])


@pytest.mark.parametrize(
    "made",
    [
        {"size": 8},
        {"distance": "Euclid"},
        {"datatype": "float32"},
        {"multivector_config": None},
        {"modifier": "idf"},
    ],
)
def test_an_empty_collection_of_other_scores_is_refused(made):
    models, client = qdrant_client.models, qdrant_client.QdrantClient(":memory:")
    tokens = {
        "size": 32,
        "distance": "Dot",
        "datatype": "float16",
        "multivector_config": {"comparator": "max_sim"},
        **{name: value for name, value in made.items() if name != "modifier"},
    }
    client.create_collection(
        "docs",
        vectors_config={
            "dense": models.VectorParams(size=32, distance="Dot"),
            "multi_vector": models.VectorParams(**tokens),
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams(modifier=made.get("modifier"))},
    )
    with pytest.raises(HybridIndexError, match="made with other vectors"):
        QdrantIndex("docs", client=client).upsert([_record("a")])
    assert client.count("docs").count == 0


def test_pooled_vectors_are_not_pooled_again(tmp_path):
    texts = {"a": "one two three four five six seven eight", "b": "nine ten eleven"}
    with (
        QdrantIndex(path=tmp_path / "edge", token_pooling=2) as source,
        SQLiteIndex(token_pooling=2) as target,
        QdrantIndex(client=qdrant_client.QdrantClient(":memory:"), token_pooling=2) as third,
    ):
        source.upsert(records_of(HashEncoder(), texts))
        copy_index(source, target)
        copy_index(target, third)
        for index in (source, target, third):
            lengths = [len(record.embedding.multi_vector) for record in index.records()]
            assert lengths == [4, 1]


def test_the_callers_client_stays_open():
    client = qdrant_client.QdrantClient(":memory:")
    QdrantIndex(client=client).close()
    assert client.get_collections().collections == []


@pytest.mark.parametrize(
    ("package", "module", "arguments", "extra"),
    [
        ("qdrant_client", "remote", {"url": "http://localhost"}, "qdrant"),
        ("qdrant_edge", "edge", {"path": "x"}, "qdrant-edge"),
    ],
)
def test_a_missing_package_names_the_extra(monkeypatch, package, module, arguments, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"langchain_hfembed.index.qdrant.{module}", raising=False)
    with pytest.raises(ImportError, match=re.escape(f'pip install "langchain-hfembed[{extra}]"')):
        QdrantIndex(**arguments)


def test_neither_package_is_loaded_before_it_is_needed():
    code = (
        "import sys, langchain_hfembed; langchain_hfembed.QdrantIndex\n"
        "print([name for name in ('qdrant_client', 'qdrant_edge', 'grpc') if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "[]"
