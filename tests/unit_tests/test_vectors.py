"""Rules of the three views, and that results belong to whoever holds them."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed.vectors import VIEWS, HybridEmbedding, PerView, SparseVector, check_views

token_ids = st.integers(0, 2**31 - 1)
weights = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights_by_id = st.dictionaries(token_ids, weights)


@given(weights_by_id)
def test_from_dict_keeps_the_weights_above_zero_and_no_others(by_id):
    kept = {token: weight for token, weight in by_id.items() if weight > 0}
    assert SparseVector.from_dict(by_id).to_dict() == kept


@given(weights_by_id)
def test_from_dict_undoes_to_dict(by_id):
    vector = SparseVector.from_dict(by_id)
    again = SparseVector.from_dict(vector.to_dict())
    assert np.array_equal(vector.indices, again.indices)
    assert np.array_equal(vector.values, again.values)


@given(weights_by_id)
def test_ids_may_be_strings_as_in_flag_embedding(by_id):
    lexical = defaultdict(int, {str(token): np.float32(w) for token, w in by_id.items()})
    assert SparseVector.from_dict(lexical).to_dict() == SparseVector.from_dict(by_id).to_dict()
    assert len(lexical) == len(by_id)


@given(weights_by_id)
def test_the_order_of_a_dict_does_not_matter(by_id):
    turned = dict(reversed(by_id.items()))
    assert SparseVector.from_dict(turned).to_dict() == SparseVector.from_dict(by_id).to_dict()


@given(weights_by_id)
def test_to_dict_is_ready_for_json(by_id):
    vector = SparseVector.from_dict(by_id)
    assert json.loads(json.dumps(vector.to_dict())) == {
        str(token): weight for token, weight in vector.to_dict().items()
    }


@given(weights_by_id)
def test_the_length_is_the_number_of_weights(by_id):
    assert len(SparseVector.from_dict(by_id)) == sum(weight > 0 for weight in by_id.values())


def test_a_weight_too_small_for_float32_is_left_out_like_zero():
    assert SparseVector.from_dict({1: 1e-60, 2: 0.5}).to_dict() == {2: 0.5}


def test_nan_among_the_weights_is_not_taken_for_zero():
    with pytest.raises(ValueError, match="finite"):
        SparseVector.from_dict({1: float("nan"), 2: 0.5})


def test_one_id_as_string_and_as_number_is_refused():
    with pytest.raises(ValueError, match="strictly increasing"):
        SparseVector.from_dict({1: 0.5, "1": 0.7})


@given(weights_by_id)
def test_arrays_are_int32_and_float32_whatever_came_in(by_id):
    vector = SparseVector.from_dict(by_id)
    again = SparseVector(vector.indices.astype(np.uint64), vector.values.astype(np.float64))
    assert (again.indices.dtype, again.values.dtype) == (np.int32, np.float32)
    assert again.to_dict() == vector.to_dict()


@pytest.mark.parametrize(
    ("indices", "values", "why"),
    [
        ([2, 1], [1.0, 1.0], "strictly increasing"),
        ([1, 1], [1.0, 1.0], "strictly increasing"),
        ([-1, 2], [1.0, 1.0], "whole numbers from 0"),
        ([1, 2], [1.0, 0.0], "above zero"),
        ([1, 2], [1.0, -1.0], "above zero"),
        ([1, 2], [1.0, float("nan")], "finite"),
        ([1, 2], [1.0, float("inf")], "finite"),
        ([1, 2], [1.0], "one value an index"),
        ([], [1.0], "one value an index"),
        ([[1, 2]], [[1.0, 1.0]], "one value an index"),
        (1, 1.0, "one value an index"),
        ([1.5, 2.5], [1.0, 1.0], "whole numbers from 0"),
        ([True], [1.0], "whole numbers from 0"),
        # int64 ids that a cast to int32 would turn into other ids.
        (np.array([2**31]), [1.0], "whole numbers from 0"),
        (np.array([2**32 + 5]), [1.0], "whole numbers from 0"),
        # Their difference overflows to +1 in int32.
        (np.array([2**31 - 1, -(2**31)]), [1.0, 1.0], "whole numbers from 0"),
    ],
)
def test_a_sparse_vector_that_breaks_a_rule_is_refused(indices, values, why):
    with pytest.raises(ValueError, match=why):
        SparseVector(np.asarray(indices), np.asarray(values))


def test_a_sparse_vector_may_be_empty_and_may_reach_the_last_id():
    assert SparseVector(np.array([]), np.array([])).to_dict() == {}
    assert SparseVector(np.array([0, 2**31 - 1]), np.array([1, 2])).to_dict() == {
        0: 1.0,
        2**31 - 1: 2.0,
    }


@pytest.mark.parametrize(
    "broken",
    [
        {"dense": np.zeros((2, 3))},
        {"dense": np.zeros(0)},
        {"dense": np.float32(1)},
        {"dense": np.array([1.0, np.nan])},
        {"dense": np.array([1.0, np.inf])},
        {"multi_vector": np.zeros(3)},
        {"multi_vector": np.zeros((0, 3))},
        {"multi_vector": np.zeros((3, 0))},
        {"multi_vector": np.zeros((1, 2, 3))},
        {"multi_vector": np.array([[1.0, -np.inf]])},
    ],
)
def test_an_array_of_the_wrong_shape_or_not_finite_is_refused_by_name(broken):
    [name] = broken
    with pytest.raises(ValueError, match=f"^{name} "):
        HybridEmbedding(**broken)


def test_lexical_weights_as_a_dict_are_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"SparseVector\.from_dict"):
        HybridEmbedding(sparse={1: 0.5})


def test_arrays_of_an_embedding_are_float32():
    embedding = HybridEmbedding([1, 2], None, [[1, 2], [3, 4]])
    assert embedding.dense.dtype == embedding.multi_vector.dtype == np.float32


@given(st.sets(st.sampled_from(VIEWS)))
def test_views_are_those_that_are_there_in_one_order(present):
    everything = {
        "multi_vector": np.ones((1, 2)),
        "sparse": SparseVector.from_dict({}),
        "dense": np.ones(2),
    }
    embedding = HybridEmbedding(**{view: everything[view] for view in present})
    assert embedding.views == tuple(view for view in VIEWS if view in present)


def _owners():
    """Each array that a result holds, with the caller's array that it was made from."""
    indices, values = np.array([1, 4], np.int32), np.array([0.5, 0.25], np.float32)
    sparse = SparseVector(indices, values)
    dense, tokens = np.ones(3, np.float32), np.ones((2, 3), np.float32)
    embedding = HybridEmbedding(dense, None, tokens)
    return {
        "indices": (indices, sparse.indices),
        "values": (values, sparse.values),
        "dense": (dense, embedding.dense),
        "multi_vector": (tokens, embedding.multi_vector),
    }


@pytest.mark.parametrize("name", _owners())
def test_changing_the_callers_array_changes_no_result(name):
    given_array, held = _owners()[name]
    before = held.copy()
    given_array[...] = 7
    assert np.array_equal(held, before)


@pytest.mark.parametrize("name", _owners())
def test_a_result_cannot_be_written_to_and_the_callers_array_still_can(name):
    given_array, held = _owners()[name]
    with pytest.raises(ValueError, match="read-only"):
        held[...] = 7
    assert given_array.flags.writeable


def test_a_result_keeps_no_larger_array_alive():
    batch = np.ones((1000, 3), np.float32)
    embedding = HybridEmbedding(batch[5], None, batch[:2])
    assert embedding.dense.base is None
    assert embedding.multi_vector.base is None


@pytest.mark.parametrize(
    "result", [SparseVector.from_dict({1: 1.0}), HybridEmbedding([1.0]), PerView(1)]
)
def test_results_are_frozen(result):
    name = dataclasses.fields(result)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, name, None)


@given(st.tuples(*[st.none() | st.just(0) | st.just("") | st.integers()] * 3))
def test_a_view_is_absent_where_it_is_none_and_not_where_it_is_zero(values):
    per_view = PerView(*values)
    expected = [(view, v) for view, v in zip(VIEWS, values, strict=True) if v is not None]
    assert list(per_view.present()) == expected
    assert per_view.to_dict() == dict(zip(VIEWS, values, strict=True))


@given(st.lists(st.sampled_from(VIEWS), min_size=1))
def test_views_asked_for_in_any_order_come_in_one(asked):
    assert check_views(iter(asked)) == tuple(view for view in VIEWS if view in asked)


def test_a_single_view_may_be_named_alone():
    assert check_views("sparse") == ("sparse",)


@pytest.mark.parametrize("asked", [(), ("dense", "colbert"), "colbert", ("",)])
def test_no_view_and_unknown_views_are_refused(asked):
    with pytest.raises(ValueError, match="views must be one or more of"):
        check_views(asked)
