"""What a `SQLiteIndex` stores, finds and scores, held against dicts and plain loops."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import langchain_hfembed
from langchain_hfembed import (
    HybridEmbedding,
    HybridIndexError,
    IndexMismatchError,
    IndexRecord,
    InvalidInputError,
    SparseVector,
    SQLiteIndex,
    View,
    scoring,
)
from langchain_hfembed.index.base import IndexModel
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder
from tests.encoders import records as records_of

EPSILON = 1e-5

# Examples ------------------------------------------------------------------------------------

look_alikes = ["a", "A", "a\0", "a\0b", "\0", "", "1", "01", "1.0", "é", "e\u0301"]
others = ["'; DROP TABLE documents; --", '"', "%", "\\u0041", "문서 1", "😀", "👩\u200d💻"]
ids = st.one_of(
    st.sampled_from([*look_alikes, *others]), st.text(st.characters(codec="utf-8"), max_size=6)
)
texts = st.one_of(
    st.sampled_from(["", "\0", "a\0b\0", "😀\r\n\t", "대한민국의 수도는 서울이다."]),
    st.text(st.characters(codec="utf-8"), max_size=20),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
metadata = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
numbers = st.floats(-1, 1, width=16)
sparse_vectors = st.dictionaries(st.integers(0, 30), st.floats(0.125, 8, width=16), max_size=6).map(
    SparseVector.from_dict
)
some_views = st.sets(st.sampled_from(VIEWS), min_size=1).map(
    lambda chosen: tuple(view for view in VIEWS if view in chosen)
)

DIM, TOKEN_DIM = 5, 3


@st.composite
def embeddings(draw: st.DrawFn, views: Sequence[View] = VIEWS) -> HybridEmbedding:
    tokens = st.integers(1, 4)
    return HybridEmbedding(
        draw(arrays(np.float32, DIM, elements=numbers)) if "dense" in views else None,
        draw(sparse_vectors) if "sparse" in views else None,
        draw(arrays(np.float32, (draw(tokens), TOKEN_DIM), elements=numbers))
        if "multi_vector" in views
        else None,
    )


@st.composite
def corpora(
    draw: st.DrawFn, views: Sequence[View] = VIEWS, min_size: int = 0, max_size: int = 8
) -> list[IndexRecord]:
    """Records with different ids."""
    chosen = draw(st.lists(ids, unique=True, min_size=min_size, max_size=max_size))
    return [
        IndexRecord(id_, draw(texts), draw(metadata), draw(embeddings(views))) for id_ in chosen
    ]


def record(
    id_: str = "id",
    *,
    dense: Sequence[float] | None = (1, 0),
    sparse: dict[int, float] | None = None,
    multi_vector: Sequence[Sequence[float]] | None = None,
    text: str = "text",
    metadata: dict[str, Any] | None = None,
) -> IndexRecord:
    weights = None if sparse is None else SparseVector.from_dict(sparse)
    embedding = HybridEmbedding(dense, weights, multi_vector)  # type: ignore[arg-type]
    return IndexRecord(id_, text, metadata or {}, embedding)


def content(records: Iterable[IndexRecord]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(record.id, record.text, record.metadata) for record in records]


def all_ids(index: SQLiteIndex, query: HybridEmbedding) -> list[str]:
    return index.candidates(query, 1_000_000)


def assert_same_embedding(
    stored: HybridEmbedding, given: HybridEmbedding, tolerance: float
) -> None:
    """Stored is `given` at length 1."""
    expected = scoring.unit_embedding(given)
    assert stored.views == given.views
    if stored.dense is not None and expected.dense is not None:
        np.testing.assert_allclose(stored.dense, expected.dense, atol=1e-6)
    if stored.sparse is not None and expected.sparse is not None:
        assert stored.sparse.to_dict() == expected.sparse.to_dict()
    if stored.multi_vector is not None and expected.multi_vector is not None:
        np.testing.assert_allclose(stored.multi_vector, expected.multi_vector, atol=tolerance)


# What goes in comes out -----------------------------------------------------------------------


@settings(max_examples=50)
@given(corpus=some_views.flatmap(corpora), batch_size=st.integers(1, 4))
def test_documents_come_back_as_they_were_stored(
    corpus: list[IndexRecord], batch_size: int
) -> None:
    index = SQLiteIndex(multi_vector_dtype="float32")
    for start in range(0, len(corpus), batch_size):
        index.upsert(corpus[start : start + batch_size])
    assert index.count() == len(corpus)
    stored = index.get([record.id for record in corpus], views=VIEWS)
    assert content(stored) == content(corpus)
    for mine, theirs in zip(stored, corpus, strict=True):
        assert_same_embedding(mine.embedding, theirs.embedding, 1e-6)


@settings(max_examples=50)
@given(corpus=corpora(min_size=1))
def test_types_within_metadata_survive(corpus: list[IndexRecord]) -> None:
    """repr() tells 1 from True and 1.0, which == does not."""
    index = SQLiteIndex()
    index.upsert(corpus)
    stored = index.get([record.id for record in corpus])
    assert [repr(record.metadata) for record in stored] == [repr(r.metadata) for r in corpus]


def test_get_keeps_the_order_of_the_ids_and_leaves_out_unknown_ones() -> None:
    index = SQLiteIndex()
    index.upsert([record(id_) for id_ in "abc"])
    assert [r.id for r in index.get(["c", "nobody", "a", "b", "a"])] == ["c", "a", "b", "a"]


def test_get_without_embeddings_returns_none() -> None:
    index = SQLiteIndex()
    index.upsert([record()])
    assert index.get(["id"])[0].embedding.views == ()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-4), ("float32", 1e-7)])
def test_token_vectors_come_back_at_length_1_within_the_precision_of_their_dtype(
    dtype: Any, tolerance: float
) -> None:
    rng = np.random.default_rng(0)
    tokens = 100 * rng.normal(size=(50, 128)).astype(np.float32)
    index = SQLiteIndex(multi_vector_dtype=dtype)
    index.upsert([record(dense=3 * np.ones(4), multi_vector=tokens)])
    [stored] = index.get(["id"], views=VIEWS)
    expected = tokens / np.linalg.norm(tokens.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(stored.embedding.multi_vector, expected, atol=tolerance)
    np.testing.assert_allclose(stored.embedding.dense, np.full(4, 0.5), atol=1e-7)
    # What only float32 can hold is there if and only if it was asked for.
    exact = np.allclose(stored.embedding.multi_vector, expected, rtol=0, atol=1e-7)
    assert exact == (dtype == "float32")


def test_the_callers_arrays_are_not_altered() -> None:
    dense, tokens = np.array([3, 4], np.float32), np.array([[0, 2]], np.float32)
    given_metadata = {"a": [1]}
    index = SQLiteIndex()
    index.upsert([record(dense=dense, multi_vector=tokens, metadata=given_metadata)])
    assert dense.tolist() == [3, 4]
    assert tokens.tolist() == [[0, 2]]
    assert given_metadata == {"a": [1]}
    given_metadata["a"].append(2)
    assert index.get(["id"])[0].metadata == {"a": [1]}


def test_a_zero_vector_stays_zero_and_scores_zero() -> None:
    index = SQLiteIndex()
    index.upsert([record(dense=(0, 0), sparse={}, multi_vector=((0, 0),))])
    query = record(dense=(1, 1), sparse={1: 1.0}, multi_vector=((1, 0),)).embedding
    assert {view: s.tolist() for view, s in index.score(query, ["id"]).present()} == {
        "dense": [0],
        "sparse": [0],
        "multi_vector": [0],
    }


# Replacing and deleting -----------------------------------------------------------------------


@pytest.mark.parametrize("id_", ["a", "a\0b", "", "'", "문서"])
def test_storing_an_id_again_replaces_its_document(id_: str) -> None:
    index = SQLiteIndex()
    index.upsert([record(id_, text="old", metadata={"version": 1}, sparse={1: 1.0})])
    new = record(id_, text="new", metadata={"v": 2}, dense=(0, 1), sparse={2: 3.0})
    index.upsert([new])
    assert index.count() == 1
    [stored] = index.get([id_], views=VIEWS)
    assert content([stored]) == content([new])
    assert_same_embedding(stored.embedding, new.embedding, 0)
    query = record(dense=(1, 0), sparse={1: 1.0}).embedding
    assert index.score(query, [id_]).dense.tolist() == [0]
    assert index.score(query, [id_]).sparse.tolist() == [0]


def test_the_last_of_duplicate_ids_in_a_batch_wins() -> None:
    index = SQLiteIndex()
    index.upsert([record("a", text="1"), record("b", text="2"), record("a", text="3")])
    assert content(index.get(["a", "b"])) == [("a", "3", {}), ("b", "2", {})]
    assert sorted(all_ids(index, record().embedding)) == ["a", "b"]


def test_ids_that_share_what_comes_before_a_nul_are_different_documents() -> None:
    index = SQLiteIndex()
    index.upsert([record("a"), record("a\0b"), record("a\0c")])
    index.upsert([record("a\0b", text="new")])
    assert content(index.get(["a", "a\0b", "a\0c"])) == [
        ("a", "text", {}),
        ("a\0b", "new", {}),
        ("a\0c", "text", {}),
    ]
    index.delete(["a\0c"])
    assert all_ids(index, record().embedding) == ["a", "a\0b"]


def test_deleting_ids_that_are_not_there_does_no_harm() -> None:
    index = SQLiteIndex()
    index.upsert([record("a"), record("1")])
    index.delete(["nobody", "A", "a\0", "", "1.0", "01", "%", "\ud800"])
    assert index.count() == 2
    assert index.get(["\ud800", "1.0"]) == []


def test_deleting_no_ids_deletes_nothing_and_none_deletes_everything() -> None:
    index = SQLiteIndex()
    index.upsert([record("a"), record("b")])
    index.delete([])
    assert index.count() == 2
    index.delete(None)
    assert index.count() == 0
    assert all_ids(index, record().embedding) == []


def test_an_empty_batch_settles_nothing() -> None:
    index = SQLiteIndex()
    index.upsert([])
    index.upsert([record(dense=(1, 0, 0))])
    assert index.count() == 1


# All or nothing -------------------------------------------------------------------------------

GOOD = record(dense=(1, 0), sparse={1: 1.0}, multi_vector=((1, 0),))
BAD = {
    "metadata is NaN": replace(GOOD, metadata={"x": math.nan}),
    "metadata is a set": replace(GOOD, metadata={"x": {1}}),
    "metadata is too deep": replace(
        GOOD, metadata={"x": reduce(lambda inner, _: [inner], range(10**5), 0)}
    ),
    "metadata is too long a number": replace(GOOD, metadata={"x": 10**5000}),
    "text is a lone surrogate": replace(GOOD, text="\ud800"),
    "dense has another dimension": record(dense=(1, 0, 0), sparse={1: 1.0}, multi_vector=((1, 0),)),
    "tokens have another dimension": record(
        dense=(1, 0), sparse={1: 1.0}, multi_vector=((1, 0, 0),)
    ),
    "a view is missing": record(dense=(1, 0), sparse={1: 1.0}),
    "there is no view": replace(GOOD, embedding=HybridEmbedding()),
}


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("is_first_batch", [True, False])
def test_a_bad_document_stores_nothing_of_its_batch(
    tmp_path: Path, bad: IndexRecord, position: int, is_first_batch: bool
) -> None:
    path = tmp_path / "index.db"
    index = SQLiteIndex(path)
    if not is_first_batch:
        index.upsert([replace(GOOD, id="kept"), replace(GOOD, id="changed", text="before")])
    batch = [replace(GOOD, id="changed", text="after"), replace(GOOD, id="new")]
    before = content(index.get(["kept", "changed"]))
    with pytest.raises((HybridIndexError, ValueError)):
        index.upsert([*batch[:position], replace(bad, id="bad"), *batch[position:]])
    index.close()
    index = SQLiteIndex(path)
    assert content(index.get(["kept", "changed", "new", "bad"])) == before
    if is_first_batch:  # not even the views and dimensions are settled
        index.upsert([record(dense=(1, 2, 3, 4))])
    index.close()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        ((1, 2), "(1, 2)"),
        ({1: 2}, "{1: 2}"),
        ({True: 2}, "{True: 2}"),
        ({1, 2}, "{1, 2}"),
        (b"x", "b'x'"),
        (object, "type"),
        ([{"deep": (1,)}], "[{'deep': (1,)}]"),
    ],
)
def test_metadata_that_is_not_json_is_refused_naming_document_and_key(
    value: Any, shown: str
) -> None:
    with pytest.raises(InvalidInputError, match="'doc 7'") as caught:
        SQLiteIndex().upsert([record("doc 7", metadata={"fine": 1, "wrong": value})])
    assert "'wrong'" in str(caught.value)
    assert shown in str(caught.value)
    assert "'fine'" not in str(caught.value)


def test_a_huge_metadata_value_makes_no_huge_message() -> None:
    with pytest.raises(InvalidInputError) as caught:
        SQLiteIndex().upsert([record(metadata={"x": {"y" * 10**6}})])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("other", "both"),
    [
        (record(dense=(1, 0, 0)), ("2", "3")),
        (record(dense=None, sparse={1: 1.0}), ("dense", "sparse")),
        (record(sparse={1: 1.0}), ("dense", "dense, sparse")),
    ],
)
def test_other_views_or_dimensions_are_refused_and_leave_the_file_as_it_was(
    tmp_path: Path, other: IndexRecord, both: tuple[str, str]
) -> None:
    path = tmp_path / "index.db"
    index = SQLiteIndex(path)
    index.upsert([record("a", dense=(1, 0))])
    index.close()
    before = path.read_bytes()
    index = SQLiteIndex(path)
    with pytest.raises(IndexMismatchError) as caught:
        index.upsert([other])
    assert all(name in str(caught.value) for name in (str(path), *both))
    with pytest.raises(IndexMismatchError):
        index.candidates(other.embedding, 5)
    with pytest.raises(IndexMismatchError):
        index.score(other.embedding, ["a"])
    index.close()
    assert path.read_bytes() == before


def test_an_index_serves_one_model_at_a_time() -> None:
    """Else the second store's vectors would go in under the first one's name, or be its queries."""
    index = SQLiteIndex()
    index.bind(IndexModel("first", "1", ("dense",)))
    index.bind(IndexModel("first", "1", ("dense",)))
    with pytest.raises(IndexMismatchError, match=r"'first'.*'second'"):
        index.bind(IndexModel("second", "2", ("dense",)))


def test_a_model_named_in_the_file_by_another_process_since_bind_is_refused(
    tmp_path: Path,
) -> None:
    mine, theirs = SQLiteIndex(tmp_path / "index.db"), SQLiteIndex(tmp_path / "index.db")
    mine.bind(IndexModel("mine", "1", ("dense",)))
    theirs.bind(IndexModel("theirs", "2", ("dense",)))
    theirs.upsert([record("a")])
    for use in (
        lambda: mine.upsert([record("b")]),
        lambda: mine.candidates(record().embedding, 1),
        lambda: mine.score(record().embedding, ["a"]),
    ):
        with pytest.raises(IndexMismatchError, match=r"'theirs'.*'mine'"):
            use()
    assert theirs.count() == 1
    mine.close()
    theirs.close()


# Candidates -----------------------------------------------------------------------------------


def on_circle(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def test_all_ids_are_candidates_in_the_order_of_storage_where_fetch_k_suffices() -> None:
    index = SQLiteIndex()
    index.upsert([record(id_, dense=on_circle(10 * ord(id_))) for id_ in "zma"])
    index.upsert([record("b")])
    index.upsert([record("m")])  # stored anew
    for fetch_k in (4, 5, 10**9):
        assert index.candidates(record().embedding, fetch_k) == ["z", "a", "b", "m"]


def test_candidates_are_the_best_of_dense_and_of_sparse_united() -> None:
    """Nine documents; dense falls from 0 to 8, sparse from 8 to 0."""
    index = SQLiteIndex()
    index.upsert(
        record(str(n), dense=on_circle(9 * n), sparse={7: 1.0 + n})
        for n in range(9)  # type: ignore[arg-type]
    )
    query = record(dense=(1, 0), sparse={7: 1.0}).embedding
    assert index.candidates(query, 2) == ["0", "1", "7", "8"]
    assert index.candidates(query, 5) == ["0", "1", "2", "3", "4", "5", "6", "7", "8"]
    assert index.candidates(HybridEmbedding(dense=query.dense), 2) == ["0", "1"]
    assert index.candidates(HybridEmbedding(sparse=query.sparse), 2) == ["7", "8"]


def test_documents_without_a_word_of_the_query_are_not_proposed_by_the_sparse_view() -> None:
    index = SQLiteIndex()
    index.upsert([record(str(n), sparse={n: 1.0}) for n in range(9)])
    assert index.candidates(HybridEmbedding(sparse=SparseVector.from_dict({3: 1.0})), 4) == ["3"]


def test_multi_vector_proposes_only_where_it_is_alone() -> None:
    index = SQLiteIndex()
    index.upsert(
        [record(str(n), dense=on_circle(9 * n), multi_vector=[on_circle(9 * n)]) for n in range(9)]
    )
    end = [on_circle(72)]
    alone = HybridEmbedding(multi_vector=end)  # type: ignore[arg-type]
    assert index.candidates(alone, 2) == ["7", "8"]
    assert index.candidates(HybridEmbedding((1, 0), None, end), 2) == ["0", "1"]  # type: ignore[arg-type]


@settings(max_examples=50)
@given(
    corpus=corpora(("dense", "sparse"), min_size=1, max_size=12),
    query=embeddings(("dense", "sparse")),
    fetch_k=st.integers(1, 6),
)
def test_no_better_document_is_left_out_of_the_candidates(
    corpus: list[IndexRecord], query: HybridEmbedding, fetch_k: int
) -> None:
    index = SQLiteIndex()
    index.upsert(corpus)
    found = index.candidates(query, fetch_k)
    assert found == [record.id for record in corpus if record.id in found]
    scores = scoring.score(query, [record.embedding for record in corpus])
    assert_candidates(found, [record.id for record in corpus], scores, fetch_k)


def assert_candidates(
    found: Sequence[str], ids: Sequence[str], scores: scoring.Scores, fetch_k: int
) -> None:
    """Whoever is above the cut is in, whoever is below in both views is out."""
    if fetch_k >= len(ids):
        assert list(found) == list(ids)
        return
    worthy: set[str] = set()
    possible: set[str] = set()
    for view, values in scores.present():
        if view == "multi_vector":
            continue
        cut = sorted(values, reverse=True)[fetch_k - 1]
        for id_, value in zip(ids, values, strict=True):
            if view == "sparse" and value <= 0:
                continue
            if value > cut + EPSILON:
                worthy.add(id_)
            if value >= cut - EPSILON:
                possible.add(id_)
    assert worthy <= set(found) <= possible
    assert len(found) <= 2 * fetch_k
    assert len(set(found)) == len(found)


# Scores ---------------------------------------------------------------------------------------


@st.composite
def queried_corpora(draw: st.DrawFn) -> tuple[list[IndexRecord], HybridEmbedding]:
    """A corpus with some views, and a query with some of these."""
    views = draw(some_views)
    asked = draw(st.sets(st.sampled_from(views), min_size=1))
    return draw(corpora(views, min_size=1)), draw(embeddings(tuple(asked)))


@settings(max_examples=50)
@given(queried_corpora(), st.randoms(use_true_random=False))
def test_scores_equal_those_of_the_stored_records(
    case: tuple[list[IndexRecord], HybridEmbedding], random: Any
) -> None:
    corpus, query = case
    index = SQLiteIndex(multi_vector_dtype="float32")
    index.upsert(corpus)
    chosen = random.choices([record.id for record in corpus], k=random.randint(0, 2 * len(corpus)))
    scores = index.score(query, chosen)
    stored = [record.embedding for record in index.get(chosen, views=VIEWS)]
    expected = scoring.score(query, stored)
    assert {view for view, _ in scores.present()} == set(query.views)
    for view, values in scores.present():
        assert values.shape == (len(chosen),)
        np.testing.assert_allclose(values, getattr(expected, view), atol=EPSILON)


@settings(max_examples=50)
@given(corpora(min_size=1), embeddings())
def test_scores_equal_their_definitions(corpus: list[IndexRecord], query: HybridEmbedding) -> None:
    index = SQLiteIndex(multi_vector_dtype="float32")
    index.upsert(corpus)
    scores = index.score(query, [record.id for record in corpus])
    for position, stored in enumerate(corpus):
        assert scores.dense[position] == pytest.approx(
            cosine(query.dense, stored.embedding.dense), abs=EPSILON
        )
        assert scores.sparse[position] == pytest.approx(
            sum(
                weight * stored.embedding.sparse.to_dict().get(token, 0)
                for token, weight in query.sparse.to_dict().items()
            ),
            rel=1e-5,
        )
        assert scores.multi_vector[position] == pytest.approx(
            np.mean(
                [
                    max(cosine(token, other) for other in stored.embedding.multi_vector)
                    for token in query.multi_vector
                ]
            ),
            abs=EPSILON,
        )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = math.hypot(*a) * math.hypot(*b)
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


@pytest.mark.parametrize("dim", [6, 37, 384])
def test_documents_with_equal_vectors_have_equal_scores(dim: int) -> None:
    """Down to the last bit, wherever they lie: else ties would not break by position."""
    rng = np.random.default_rng(dim)
    vector, tokens = rng.normal(size=dim), rng.normal(size=(7, dim))
    index = SQLiteIndex()
    index.upsert(
        [record(str(n), dense=vector, sparse={1: 0.1}, multi_vector=tokens) for n in range(23)]
    )
    query = record(dense=rng.normal(size=dim), sparse={1: 0.7}, multi_vector=tokens[:3]).embedding
    for chosen in ([str(n) for n in range(23)], ["22", "3"]):
        for view, values in index.score(query, chosen).present():
            assert len(set(values.tolist())) == 1, view


def test_scoring_an_id_that_is_not_there_names_it() -> None:
    index = SQLiteIndex()
    index.upsert([record("a")])
    with pytest.raises(InvalidInputError, match="'nobody'"):
        index.score(record().embedding, ["a", "nobody"])


@given(views=some_views)
def test_an_empty_index_proposes_nothing_and_scores_nothing(views: tuple[View, ...]) -> None:
    query = replace(
        HybridEmbedding(),
        **{view: getattr(GOOD.embedding, view) for view in views},
    )
    index = SQLiteIndex()
    assert index.candidates(query, 5) == []
    scores = index.score(query, [])
    assert {view: values.shape for view, values in scores.present()} == dict.fromkeys(views, (0,))


def test_token_numbers_may_be_as_large_as_int32_allows() -> None:
    """Hashed words are numbers up to 2**31; memory must follow how many there are.

    In a process of its own, so that an allocation of 16 GB fails at once and alone.
    """
    program = """
import resource
from langchain_hfembed import HybridEmbedding, IndexRecord, SparseVector, SQLiteIndex
index = SQLiteIndex()
largest = 2**31 - 1
index.upsert([
    IndexRecord("a", "", {}, HybridEmbedding(sparse=SparseVector([5, largest], [1, 2]))),
    IndexRecord("b", "", {}, HybridEmbedding(sparse=SparseVector([0, largest - 1], [3, 4]))),
    IndexRecord("c", "", {}, HybridEmbedding(sparse=SparseVector([], []))),
])
query = HybridEmbedding(sparse=SparseVector([4, largest], [10, 100]))
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
print(index.candidates(query, 2), index.score(query, ["a", "b", "c"]).sparse.tolist())
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("/proc tells how much memory is in use")
    assert hasattr(resource, "RLIMIT_AS")
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(langchain_hfembed.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("['a'] [200.0, 0.0, 0.0]\n", 0), result.stderr


# One state ------------------------------------------------------------------------------------


def test_a_snapshot_does_not_see_what_another_connection_commits(tmp_path: Path) -> None:
    reader, writer = SQLiteIndex(tmp_path / "index.db"), SQLiteIndex(tmp_path / "index.db")
    writer.upsert([record("a"), record("b")])
    query = record().embedding
    with reader.snapshot():
        assert reader.candidates(query, 9) == ["a", "b"]
        writer.delete(["a"])
        writer.upsert([record("b", text="new"), record("c")])
        assert reader.candidates(query, 9) == ["a", "b"]
        assert reader.score(query, ["a", "b"]).dense.tolist() == [1, 1]
        assert content(reader.get(["a", "b", "c"])) == [("a", "text", {}), ("b", "text", {})]
        assert reader.count() == 2
    assert reader.candidates(query, 9) == ["b", "c"]
    assert content(reader.get(["b"])) == [("b", "new", {})]
    reader.close()
    writer.close()


def test_a_snapshot_is_for_reading() -> None:
    """A batch within it would be part of it, and no longer stored as a whole or not at all."""
    index = SQLiteIndex()
    index.upsert([record("a")])
    with index.snapshot():
        with pytest.raises(HybridIndexError, match="snapshot"):
            index.upsert([record("b")])
        with pytest.raises(HybridIndexError, match="snapshot"):
            index.delete(["a"])
    assert all_ids(index, record().embedding) == ["a"]


class Bookkeeping(RuleBasedStateMachine):
    """After any sequence of changes a writer, a reader that looked on, and a dict agree."""

    @initialize(
        views=some_views, query=embeddings(), dtype=st.sampled_from([None, "float16", "float32"])
    )
    def start(self, views: tuple[View, ...], query: HybridEmbedding, dtype: Any) -> None:
        self.views = views
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "index.db"
        self.dtype = dtype
        self.tolerance = EPSILON if dtype == "float32" else 2e-3
        self.writer = SQLiteIndex(self.path, multi_vector_dtype=dtype)
        self.reader = SQLiteIndex(self.path)
        self.expected: dict[str, IndexRecord] = {}
        self.query = replace(
            HybridEmbedding(), **{view: getattr(query, view) for view in self.views}
        )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.writer.close()
            self.reader.close()
            self.folder.cleanup()

    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        known = st.sampled_from(sorted(self.expected)) if self.expected else st.nothing()
        batch = [
            IndexRecord(id_, data.draw(texts), {}, data.draw(embeddings(self.views)))
            for id_ in data.draw(st.lists(ids | known, max_size=4))
        ]
        self.writer.upsert(batch)
        for record in {record.id: record for record in batch}.values():
            self.expected.pop(record.id, None)
            self.expected[record.id] = record

    @rule(data=st.data())
    @precondition(lambda self: self.expected)
    def store_a_batch_with_a_bad_document(self, data: st.DataObject) -> None:
        good = data.draw(st.sampled_from(list(self.expected.values())))
        with pytest.raises(InvalidInputError):
            self.writer.upsert(
                [replace(good, text="not to be stored"), replace(good, id="", metadata={"x": {0}})]
            )

    @rule(data=st.data())
    @precondition(lambda self: self.expected)
    def delete(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.expected)) | ids, max_size=3))
        self.writer.delete(chosen)
        for id_ in chosen:
            self.expected.pop(id_, None)

    @rule()
    def delete_everything(self) -> None:
        self.writer.delete(None)
        self.expected.clear()

    @rule()
    def compact(self) -> None:
        self.writer.compact()

    @rule()
    def reopen_the_writer(self) -> None:
        self.writer.close()
        self.writer = SQLiteIndex(self.path, multi_vector_dtype=self.dtype)

    @rule(data=st.data(), fetch_k=st.integers(1, 4))
    def search(self, data: st.DataObject, fetch_k: int) -> None:
        index = data.draw(st.sampled_from([self.writer, self.reader]))
        found = index.candidates(self.query, fetch_k)
        scores = scoring.score(self.query, [r.embedding for r in self.expected.values()])
        if self.views == ("multi_vector",):
            assert len(found) == min(fetch_k, len(self.expected))
        else:
            assert_candidates(found, list(self.expected), scores, fetch_k)

    @invariant()
    def all_agree(self) -> None:
        if not hasattr(self, "folder"):
            return
        corpus = list(self.expected.values())
        scores = scoring.score(self.query, [record.embedding for record in corpus])
        for index in (self.writer, self.reader):
            assert index.count() == len(corpus)
            assert all_ids(index, self.query) == list(self.expected)
            assert content(index.get(list(self.expected))) == content(corpus)
            for view, values in index.score(self.query, list(self.expected)).present():
                np.testing.assert_allclose(
                    values, getattr(scores, view), atol=self.tolerance, rtol=1e-5
                )


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=25, stateful_step_count=12)


# What a review found ----------------------------------------------------------------------------


def numbered(texts: Sequence[str]) -> list[IndexRecord]:
    """Records whose ids are their positions."""
    return records_of(HashEncoder(), {str(n): text for n, text in enumerate(texts)})


@pytest.mark.parametrize("dtype", ["int4", "bogus"])
def test_an_unknown_type_of_multi_vectors_is_refused_before_a_file_is_made(
    dtype: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="float16, int8, float32"):
        SQLiteIndex(tmp_path / "index.db", multi_vector_dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_search_interrupted_while_loading_does_not_shift_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C after the dense and before the sparse vectors."""
    index = SQLiteIndex(multi_vector_dtype="float32")
    corpus = numbered(["red cat", "blue dog", "green bird"])
    index.upsert(corpus)
    query = HashEncoder().encode_queries(["blue dog"])[0]
    with monkeypatch.context() as patch:
        patch.setattr(
            "langchain_hfembed.index.sqlite.loaded.SparseMatrix.append",
            lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            index.candidates(query, 10)
    ids = index.candidates(query, 10)
    found = index.score(query, ids)
    expected = scoring.score(query, [record.embedding for record in corpus])
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-6)
    np.testing.assert_allclose(found.sparse, expected.sparse, atol=1e-6)


def test_records_without_views_are_refused() -> None:
    """Such as `get` returns unless views are asked for; they would settle the index for good."""
    index = SQLiteIndex()
    index.upsert(numbered(["red cat"]))
    with pytest.raises(InvalidInputError, match="no view"):
        SQLiteIndex().upsert(index.get(["0"]))


def test_sparse_scores_do_not_depend_on_how_documents_came_in() -> None:
    """Weights lie in segments, which are merged and thinned out."""
    generator = np.random.default_rng(0)
    words = [" ".join(generator.choice(list("abcdefgh"), 5)) for _ in range(60)]
    one_by_one, at_once = SQLiteIndex(), SQLiteIndex()
    for record in numbered(words):
        one_by_one.upsert([record])
        one_by_one.candidates(HashEncoder().encode_queries(["a b"])[0], 1)
    one_by_one.delete([str(n) for n in range(0, 60, 3)])
    at_once.upsert([record for n, record in enumerate(numbered(words)) if n % 3])
    for query in HashEncoder().encode_queries(["a b", "c", "h g f"]):
        ids = at_once.candidates(query, 100)
        assert one_by_one.candidates(query, 100) == ids
        np.testing.assert_allclose(
            one_by_one.score(query, ids).sparse, at_once.score(query, ids).sparse, rtol=1e-6
        )
