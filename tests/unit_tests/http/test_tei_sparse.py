"""How a reply of `/embed_sparse` is read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed.errors import InvalidResponseError
from langchain_hfembed.http.replies import read_sparse
from langchain_hfembed.http.tei import EmbedOptions, embed_body

indices = st.integers(0, 2**31 - 1)
weights = st.floats(2.0**-100, 2.0**100, width=32)
replies = st.lists(st.dictionaries(indices, weights, max_size=6), min_size=1, max_size=6)


def row(vector):
    return [{"index": index, "value": value} for index, value in vector.items()]


def test_a_request_holds_what_tei_takes_and_no_more():
    options = EmbedOptions(truncate=True, truncation_direction="left", prompt_name="query")
    assert json.loads(embed_body(["a"], options)) == {
        "inputs": ["a"],
        "truncate": True,
        "truncation_direction": "Left",
        "prompt_name": "query",
    }


@settings(max_examples=50)
@given(replies, st.randoms())
def test_weights_come_out_as_they_went_in_whatever_the_order_of_their_indices(vectors, random):
    reply = [row(vector) for vector in vectors]
    for each in reply:
        random.shuffle(each)
    read = read_sparse(json.loads(json.dumps(reply)), len(vectors))
    assert [vector.to_dict() for vector in read] == vectors
    assert all((np.diff(vector.indices) > 0).all() for vector in read)


@settings(max_examples=50)
@given(replies, st.data())
def test_weights_of_zero_and_below_are_left_out(vectors, data):
    dropped = st.just(0) | st.just(0.0) | st.just(1e-60) | st.floats(-1e30, -1e-30)
    reply = [
        row(v | data.draw(st.dictionaries(indices.filter(lambda i, v=v: i not in v), dropped)))
        for v in vectors
    ]
    assert [vector.to_dict() for vector in read_sparse(reply, len(vectors))] == vectors


def test_whole_numbers_are_weights_too():
    [vector] = read_sparse([[{"index": 7, "value": 2}, {"index": 3, "value": 1, "extra": "x"}]], 1)
    assert vector.to_dict() == {3: 1.0, 7: 2.0}
    assert (vector.indices.dtype, vector.values.dtype) == (np.int32, np.float32)


def test_a_text_without_weights_has_an_empty_vector():
    assert [len(vector) for vector in read_sparse([[], row({1: 0.0})], 2)] == [0, 0]


@settings(max_examples=50)
@given(
    replies, st.data(), st.sampled_from([None, math.nan, math.inf, -math.inf, 1e39, -1e39, 10**400])
)
def test_what_float32_cant_hold_is_found_at_its_position(vectors, data, bad):
    positions = data.draw(st.sets(st.integers(0, len(vectors) - 1), min_size=1))
    reply = [row(v | {2**31 - 1: bad} if i in positions else v) for i, v in enumerate(vectors)]
    with pytest.raises(InvalidResponseError, match="null, NaN or infinity") as caught:
        read_sparse(reply, len(vectors))
    assert caught.value.indices == tuple(sorted(positions))


@settings(max_examples=50)
@given(replies.filter(any), st.data())
def test_an_index_that_occurs_twice_is_found_at_its_position(vectors, data):
    """Even where one of the two weights would be left out."""
    position = data.draw(st.sampled_from([i for i, v in enumerate(vectors) if v]))
    twice = data.draw(st.sampled_from(sorted(vectors[position])))
    reply = [row(vector) for vector in vectors]
    reply[position].append({"index": twice, "value": data.draw(st.sampled_from([0, 0.5]))})
    with pytest.raises(InvalidResponseError, match="occurs twice") as caught:
        read_sparse(reply, len(vectors))
    assert caught.value.indices == (position,)


@pytest.mark.parametrize("index", [-1, 2**31, 2**63, 2**64, -(2**70)])
def test_an_index_out_of_range_is_found_at_its_position(index):
    for value in (0.5, 0):
        with pytest.raises(InvalidResponseError, match="from 0 to") as caught:
            read_sparse([row({1: 1.0}), row({1: 1.0, index: value})], 2)
        assert caught.value.indices == (1,)


@settings(max_examples=50)
@given(replies, st.integers(-5, 5).filter(bool))
def test_one_vector_too_few_or_too_many_uses_none(vectors, surplus):
    expected = max(0, len(vectors) + surplus) or len(vectors) + 1
    with pytest.raises(InvalidResponseError, match=f"answered {expected} texts with") as caught:
        read_sparse([row(vector) for vector in vectors], expected)
    assert caught.value.indices == tuple(range(expected))


@pytest.mark.parametrize(
    "reply",
    [
        [[0.1, 0.2], [0.3, 0.4]],
        [[1, 2], [3, 4]],
        [[None, 0.2], [0.3, 0.4]],
        [row({1: 1.0}), [0.3, 0.4]],
        [[[0.1], [0.2]], [[0.3], [0.4]]],  # token vectors
        {"data": [{"index": 0, "embedding": [0.1]}, {"index": 1, "embedding": [0.2]}]},  # OpenAI's
        [{"index": 0, "score": 0.1}, {"index": 1, "score": 0.2}],  # a reranker's
    ],
)
def test_what_another_model_answers_is_told_to_be_no_splade(reply):
    told = r"Check that the URL is /embed_sparse of a TEI with a SPLADE model"
    with pytest.raises(InvalidResponseError, match=told) as caught:
        read_sparse(reply, 2)
    assert caught.value.indices == (0, 1)


def test_dense_vectors_are_told_to_be_dense():
    with pytest.raises(InvalidResponseError, match="dense vectors, not sparse"):
        read_sparse([[0.1, 0.2]], 1)


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        "",
        "no",
        3.5,
        True,
        {"index": 1, "value": 1.0},
        [{}],
        [{"index": 1}],
        [{"value": 1.0}],
        [["index", "value"]],
        ["index"],
        [True],
        [{"index": 1, "value": 1.0}, None],
        [{"index": True, "value": 1.0}],
        [{"index": 1.0, "value": 1.0}],
        [{"index": "1", "value": 1.0}],
        [{"index": None, "value": 1.0}],
        [{"index": [1], "value": 1.0}],
        [{"index": 1, "value": "1.0"}],
        [{"index": 1, "value": True}],
        [{"index": 1, "value": [1.0]}],
        [{"index": 1, "value": {}}],
    ],
)
def test_what_is_no_list_of_index_and_value_is_found_at_its_position(found):
    with pytest.raises(InvalidResponseError, match=r"1 of 3 .*index and value") as caught:
        read_sparse([row({1: 1.0}), found, []], 3)
    assert caught.value.indices == (1,)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["index", "value", "data"]), inner)
    ),
    max_leaves=12,
)
rows = st.lists(
    st.fixed_dictionaries({"index": json_values | indices, "value": json_values | weights})
)


@settings(max_examples=100)
@given(json_values | st.lists(rows | json_values, max_size=4), st.integers(1, 4))
def test_any_json_is_one_vector_a_text_or_an_invalid_response(reply, expected):
    try:
        vectors, blamed = read_sparse(reply, expected), None
    except InvalidResponseError as error:
        vectors, blamed = [], error.indices
    if blamed is None:
        assert len(vectors) == expected
        assert all(np.isfinite(v.values).all() and (v.values > 0).all() for v in vectors)
    else:
        assert blamed
        assert set(blamed) <= set(range(expected))
