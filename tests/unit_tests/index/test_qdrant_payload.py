"""What Qdrant is told of metadata and filters, judged by a plain reading of the plan."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed import HybridEmbedding, IndexRecord, InvalidInputError, SparseVector
from langchain_hfembed.index.base import metadata_json
from langchain_hfembed.index.filters import Compare, Every, Leaf, Not, OneOf, Some, matches
from langchain_hfembed.index.filters import parse_filter as parsed
from langchain_hfembed.index.qdrant.payload import (
    PROPERTIES_ID,
    compared_paths,
    condition_of,
    escaped,
    has_path,
    keyword,
    number_key,
    number_keys,
    payload_of,
    point_id,
)
from langchain_hfembed.index.qdrant.plan import (
    AllOf,
    AnyOf,
    Condition,
    HasKeyword,
    InRange,
    NoneOf,
    Point,
)
from langchain_hfembed.index.qdrant.points import batches, pages, point_of
from tests.unit_tests.index.test_filters import filters, metadatas

anything = st.text(st.characters(), max_size=8)  # lone surrogates too


def _payload(metadata: dict[str, Any]) -> dict[str, Any]:
    record = IndexRecord("id", "text", metadata, HybridEmbedding())
    return payload_of(record, metadata_json(record), 7)


def _passes(condition: Condition, payload: Mapping[str, Any]) -> bool:
    """What Qdrant's documentation says that a condition means."""
    if isinstance(condition, HasKeyword):
        return not set(condition.values).isdisjoint(payload[condition.key])
    if isinstance(condition, InRange):
        where, name = condition.key.split(".")
        assert where == "numbers"
        limits = [(condition.gt, "__gt__"), (condition.gte, "__ge__")]
        limits += [(condition.lt, "__lt__"), (condition.lte, "__le__")]
        return any(
            all(limit is None or getattr(number, sign)(limit) for limit, sign in limits)
            for number in payload["numbers"].get(name, [])
        )
    inner = [_passes(each, payload) for each in getattr(condition, "conditions", ())]
    if isinstance(condition, AllOf):
        return all(inner)
    if isinstance(condition, AnyOf):
        return any(inner)
    if isinstance(condition, NoneOf):
        return not any(inner)
    assert not condition.ids  # the only use of ids in a filter is for "never"
    return False


def _parts(condition: Condition) -> list[Condition]:
    inner = getattr(condition, "conditions", ())
    return [condition, *(part for each in inner for part in _parts(each))]


def _ranges(condition: Condition) -> bool:
    return isinstance(condition, InRange)


@given(metadatas, filters)
def test_conditions_on_a_payload_are_the_filter_on_its_metadata(found, asked):
    condition, payload = condition_of(parsed(asked)), _payload(found)
    assert _passes(condition, payload) == matches(parsed(asked), found)
    compared = compared_paths(parsed(asked))
    absent = {path for path in compared if not _passes(has_path(path), payload)}
    assert _passes(condition_of(parsed(asked), absent), payload) == _passes(condition, payload)
    keys = {part.key for part in _parts(condition_of(parsed(asked), absent)) if _ranges(part)}
    assert keys <= {number_key(path) for path in compared - absent}
    for part in _parts(condition):
        # An empty list means "no condition" to Qdrant, and JSON has no infinity.
        assert not isinstance(part, (AllOf, AnyOf, NoneOf)) or part.conditions
        assert not isinstance(part, HasKeyword) or part.values
        if isinstance(part, InRange):
            assert all(
                limit is None or math.isfinite(limit)
                for limit in (part.gt, part.gte, part.lt, part.lte)
            )


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("number", [-math.inf, -1e308, -0.0, 0.0, 5e-324, 1e308, math.inf])
def test_comparisons_hold_up_to_infinity(operator, number):
    compare = Compare("n", operator, number)
    for value in (-(10**400), -1e308, -1, -0.0, 0, 5e-324, 1, 1e308, 10**400):
        payload = _payload({"n": [value]})
        assert _passes(condition_of(compare), payload) == matches(compare, {"n": [value]})


@pytest.mark.parametrize(
    ("filter_", "passes"),
    [(Every(()), True), (Some(()), False), (OneOf(()), False), (Not(Every(())), False)],
)
def test_conditions_of_nothing_are_always_or_never(filter_, passes):
    assert _passes(condition_of(filter_), _payload({"a": 1})) is passes


@given(st.lists(anything, min_size=2, max_size=2, unique=True))
def test_two_paths_never_share_a_name(paths):
    names = [escaped(path) for path in paths]
    assert names[0] != names[1]
    assert all(name and set(name) <= set(_ALLOWED) and len(name) <= 128 for name in names)


_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


@pytest.mark.parametrize(
    ("path", "name"),
    [("year", "year"), ("source.file", "source_2e_file"), ("a_b", "a_5f_b"), ("", "_")],
)
def test_a_name_can_be_read(path, name):
    assert escaped(path) == name


def test_a_long_path_becomes_a_hash_that_no_short_one_has():
    assert escaped("a" * 128) == "a" * 128
    assert escaped("a" * 129).startswith("__")
    assert escaped("a" * 129) != escaped("a" * 130)


leaf = st.one_of(
    st.builds(Leaf, anything, st.sampled_from(["string"]), anything),
    st.builds(Leaf, anything, st.just("number"), st.floats(allow_nan=False)),
    st.builds(Leaf, anything, st.just("boolean"), st.sampled_from([0.0, 1.0])),
    st.builds(Leaf, anything, st.sampled_from(["null", "present"]), st.just("")),
)


@given(leaf, leaf)
def test_two_leaves_share_a_keyword_where_they_are_equal_and_nowhere_else(one, other):
    assert (keyword(one) == keyword(other)) == (one == other)
    keyword(one).encode()  # what can't be UTF-8 can't be sent


def test_zeros_are_one_number():
    assert keyword(Leaf("a", "number", -0.0)) == keyword(Leaf("a", "number", 0.0))


@pytest.mark.parametrize("value", ["\ud800", "x" * 129, "\ud800" * 129])
def test_a_string_that_is_long_or_no_text_is_hashed(value):
    hashed = keyword(Leaf("\ud800", "string", value))
    assert len(hashed.encode()) < 100
    assert hashed != keyword(Leaf("\ud800", "string", value + "x"))


@given(metadatas)
def test_metadata_comes_back_whatever_qdrant_makes_of_numbers(found):
    assert json.loads(json.loads(json.dumps(_payload(found)))["metadata"]) == found


def test_every_list_of_numbers_has_a_key_to_index():
    payload = _payload({"year": [2024, 2025.5], "a.b": 1, "huge": 10**400, "name": "x"})
    assert sorted(number_keys(payload)) == ["numbers.a_2e_b", "numbers.year"]
    assert sorted(payload["numbers"]["year"]) == [2024.0, 2025.5]


def test_points_of_ids_differ_and_are_never_that_of_the_properties():
    points = {point_id(id_) for id_ in ("", "a", "A", "a\0", "é", "e\u0301", str(PROPERTIES_ID))}
    assert len(points) == 7
    assert PROPERTIES_ID not in points
    assert point_id("\ud800") is None
    # Must never change: files and servers have it.
    assert str(point_id("a")) == "02f9b301-6e70-5361-a82d-f59ffca37f12"


@pytest.mark.parametrize("name", ["id", "text"])
def test_half_a_surrogate_pair_is_refused_by_name(name):
    record = IndexRecord(**{"id": "x", "text": "t", name: "\ud83d"}, **_REST)
    with pytest.raises(InvalidInputError, match=f"the {name} of document .*surrogate"):
        payload_of(record, "{}", 0)


_REST: dict[str, Any] = {"metadata": {}, "embedding": HybridEmbedding()}


def _point(tokens: int) -> Point:
    vectors = HybridEmbedding(
        np.ones(4), SparseVector.from_dict({1: 1.0, 2: 2.0}), np.ones((tokens, 8))
    )
    return point_of(IndexRecord("id", "text", {}, vectors), {"id": "id"}, 1)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 20_000))
def test_batches_keep_the_order_and_the_size(tokens, limit):
    points = [_point(count) for count in tokens]
    found = list(batches(points, limit))
    assert [point for batch in found for point in batch] == points
    for batch in found:
        sizes = [
            20 * (4 + 4 + 8 * len(p.vectors.multi_vector)) + len('{"id": "id"}') for p in batch
        ]
        assert len(batch) == 1 or sum(sizes) <= limit


def test_a_batch_has_at_most_64_points():
    assert [len(batch) for batch in batches([_point(1)] * 130, 10**9)] == [64, 64, 2]
    assert [list(page) for page in pages([1, 2, 3], 2)] == [[1, 2], [3]]


def test_pooling_makes_fewer_tokens_and_leaves_the_other_views():
    tokens = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    vectors = HybridEmbedding(np.ones(3), None, tokens)
    pooled = point_of(IndexRecord("id", "", {}, vectors), {}, 2).vectors
    assert pooled.views == ("dense", "multi_vector")
    assert pooled.multi_vector.shape == (4, 4)
    np.testing.assert_allclose(np.linalg.norm(pooled.multi_vector, axis=1), 1, atol=1e-6)
