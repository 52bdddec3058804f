"""What TEI is sent, and how its replies are read."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.http.replies import read_ranks, read_vectors
from langchain_hfembed.http.tei import (
    EmbedOptions,
    EndpointInfo,
    embed_body,
    json_body,
    openai_body,
    read_info,
    read_metrics,
    rerank_body,
    text_bytes,
)

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5)
finite = st.floats(allow_nan=False, allow_infinity=False)
some_vectors = st.integers(1, 5).flatmap(
    lambda dim: st.lists(st.lists(finite, min_size=dim, max_size=dim), min_size=1, max_size=6)
)


# Requests.


@settings(max_examples=50)
@given(texts)
def test_texts_arrive_as_they_are(texts):
    assert json.loads(embed_body(texts, EmbedOptions())) == {"inputs": texts}
    assert json.loads(rerank_body("query", texts, {})) == {"query": "query", "texts": texts}


@given(texts.filter(bool))
def test_a_body_is_as_long_as_its_texts_say(texts):
    frame = len(b'{"inputs":[]}')
    counted = sum(map(text_bytes, texts))
    assert len(embed_body(texts, EmbedOptions())) == frame + counted - 1  # n - 1 commas


def test_a_body_is_utf_8_without_escapes_and_spaces():
    assert json_body({"inputs": ["서울", 'a\n"']}) == '{"inputs":["서울","a\\n\\""]}'.encode()


def test_what_is_not_given_is_left_to_the_server():
    assert json.loads(embed_body(["a"], EmbedOptions())) == {"inputs": ["a"]}
    assert EmbedOptions().given() == {}


def test_false_and_zero_are_given():
    options = EmbedOptions(normalize=False, truncate=False, prompt_name="")
    assert json.loads(embed_body(["a"], options)) == {
        "inputs": ["a"],
        "normalize": False,
        "truncate": False,
        "prompt_name": "",
    }


@pytest.mark.parametrize(("ours", "teis"), [("left", "Left"), ("right", "Right")])
def test_options_are_spelt_as_in_teis_openapi_description(ours, teis):
    options = EmbedOptions(True, True, ours, 64, "query")
    spelt = {
        "normalize": True,
        "truncate": True,
        "truncation_direction": teis,
        "dimensions": 64,
        "prompt_name": "query",
    }
    assert json.loads(embed_body(["a"], options)) == {"inputs": ["a"], **spelt}
    ranked = json.loads(rerank_body("q", ["a"], {"truncation_direction": ours, "truncate": None}))
    assert ranked == {"query": "q", "texts": ["a"], "truncation_direction": teis}


def test_an_openai_request_has_a_models_name_and_dimensions():
    assert json.loads(openai_body(["a"], EmbedOptions(dimensions=64), "bge-m3")) == {
        "input": ["a"],
        "model": "bge-m3",
        "dimensions": 64,
    }
    assert json.loads(openai_body(["a"], EmbedOptions(), None)) == {
        "input": ["a"],
        "model": "default",
    }


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (EmbedOptions(normalize=False), "normalize"),
        (EmbedOptions(truncate=False, dimensions=3), "truncate"),
        (EmbedOptions(truncation_direction="left", prompt_name="q"), "prompt_name, truncation_dir"),
    ],
)
def test_an_option_that_openais_format_lacks_is_refused_by_name(options, named):
    with pytest.raises(InvalidInputError, match=named):
        openai_body(["a"], options, None)


# Vectors.


@settings(max_examples=50)
@given(some_vectors, st.randoms(), st.sampled_from(["plain", "openai", "unnumbered", "embeddings"]))
def test_vectors_come_out_as_they_went_in_whatever_they_are_wrapped_in(vectors, random, wrapping):
    items = [{"index": i, "embedding": v, "object": "x"} for i, v in enumerate(vectors)]
    random.shuffle(items)
    reply = {
        "plain": vectors,
        "openai": {"object": "list", "data": items, "usage": {}},
        "unnumbered": {"data": [{"embedding": vector} for vector in vectors]},
        "embeddings": {"embeddings": vectors},
    }[wrapping]
    assert read_vectors(json.loads(json.dumps(reply)), len(vectors)) == vectors


def test_whole_numbers_become_floats():
    [vector] = read_vectors([[1, 0, -3]], 1)
    assert vector == [1.0, 0.0, -3.0]
    assert {type(value) for value in vector} == {float}


@settings(max_examples=50)
@given(some_vectors, st.data(), st.sampled_from([None, math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_is_found_at_its_position(vectors, data, bad):
    positions = data.draw(st.sets(st.integers(0, len(vectors) - 1), min_size=1))
    for position in positions:
        vectors[position][data.draw(st.integers(0, len(vectors[position]) - 1))] = bad
    with pytest.raises(InvalidResponseError, match="null, NaN or infinity") as caught:
        read_vectors(vectors, len(vectors))
    assert caught.value.indices == tuple(sorted(positions))


@settings(max_examples=50)
@given(some_vectors, st.integers(-5, 5).filter(bool))
def test_one_vector_too_few_or_too_many_uses_none(vectors, surplus):
    expected = max(0, len(vectors) + surplus)
    if expected == 0:
        expected = len(vectors) + 1
    with pytest.raises(InvalidResponseError, match=f"answered {expected} texts with") as caught:
        read_vectors(vectors, expected)
    assert caught.value.indices == tuple(range(expected))


@pytest.mark.parametrize(
    ("reply", "indices", "said"),
    [
        # No vectors at all.
        (None, (0, 1, 2), "NoneType"),
        ("ok", (0, 1, 2), "str"),
        (3.5, (0, 1, 2), "float"),
        (True, (0, 1, 2), "bool"),
        ({}, (0, 1, 2), "dict"),
        ([], (0, 1, 2), "0 vectors"),
        ({"error": "no"}, (0, 1, 2), "dict"),
        ({"embeddings": None}, (0, 1, 2), "NoneType"),
        ({"embeddings": {"0": [1.0]}}, (0, 1, 2), "dict"),
        ({"data": []}, (0, 1, 2), "0 vectors"),
        ({"data": None}, (0, 1, 2), "dict"),
        ({"data": [[1.0], [1.0], [1.0]]}, (0, 1, 2), "dict"),
        ({"data": [{}, {}, {}]}, (0, 1, 2), "not lists of numbers"),
        # Token vectors.
        ([[[1.0], [2.0]], [[1.0]], [[1.0]]], (0, 1, 2), "one vector a token"),
        ([[[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]], (0, 1, 2), "one vector a token"),
        ([[1.0], [[2.0]], [3.0]], (0, 1, 2), "one vector a token"),
        ([[[]], [[]], [[]]], (0, 1, 2), "one vector a token"),
        ({"embeddings": [[[1.0]], [[1.0]], [[1.0]]]}, (0, 1, 2), "one vector a token"),
        # Rows that are no vectors.
        ([1.0, 2.0, 3.0], (0, 1, 2), "not lists of numbers of one length"),
        ([[], [], []], (0, 1, 2), "not lists of numbers of one length"),
        ([[1.0], [2.0], []], (2,), "1 of 3 texts are not lists"),
        ([[1.0], [2.0, 3.0], [4.0]], (1,), "of one length"),
        ([[1.0], None, [4.0]], (1,), "1 of 3"),
        ([[1.0], None, None], (1, 2), "2 of 3"),
        ([[1.0], {"a": 1}, [4.0]], (1,), "1 of 3"),
        ([[1.0], "abc", [4.0]], (1,), "1 of 3"),
        (["AAAA", "BBBB", "CCCC"], (0, 1, 2), "not lists of numbers"),
        # Rows with something that is no number.
        ([[1.0, 2.0], [1.0, "x"], [1.0, 2.0]], (1,), "1 of 3"),
        ([[1.0, 2.0], [1.0, "2.0"], [1.0, 2.0]], (1,), "1 of 3"),
        ([["1.0"], ["2.0"], ["3.0"]], (0, 1, 2), "3 of 3"),
        ([[1.0, 2.0], [1.0, {}], [1.0, 2.0]], (1,), "1 of 3"),
        ([[1.0, 2.0], [1.0, [2.0]], [1.0, 2.0]], (1,), "1 of 3"),
        ([[1.0, 2.0], [1.0, 10**400], [1.0, 2.0]], (1,), "1 of 3"),
    ],
)
def test_a_malformed_reply_is_refused_with_the_positions_concerned(reply, indices, said):
    with pytest.raises(InvalidResponseError) as caught:
        read_vectors(reply, 3)
    assert said in str(caught.value)
    assert caught.value.indices == indices


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 0, 1],  # twice
        [0, 1],  # one missing
        [0, 1, 1, 2],  # one too many
        [1, 2, 3],  # from 1
        [0, 1, -1],
        [0, 1, None],
        [0, 1, "2"],
        [0, 1, [2]],
        [0, 1, {"2": 2}],
    ],
)
def test_numbers_that_do_not_say_whose_a_vector_is_are_refused(numbers):
    reply = {"data": [{"index": number, "embedding": [1.0]} for number in numbers]}
    with pytest.raises(InvalidResponseError) as caught:
        read_vectors(reply, 3)
    assert caught.value.indices == (0, 1, 2)


def test_numbers_for_some_vectors_only_are_refused():
    reply = {"data": [{"index": 0, "embedding": [1.0]}, {"embedding": [2.0]}]}
    with pytest.raises(InvalidResponseError, match="matched to texts"):
        read_vectors(reply, 2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "embeddings", "index", "embedding"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(json_values, st.integers(1, 4))
def test_any_json_is_one_finite_vector_a_text_or_an_invalid_response(reply, expected):
    try:
        vectors, blamed = read_vectors(reply, expected), None
    except InvalidResponseError as error:
        vectors, blamed = [], error.indices
    if blamed is None:
        assert len(vectors) == expected
        assert len({len(vector) for vector in vectors}) == 1
        assert all(math.isfinite(value) for vector in vectors for value in vector)
    else:
        assert blamed
        assert set(blamed) <= set(range(expected))


# Ranks.


@given(st.lists(finite, min_size=1, max_size=8), st.randoms())
def test_ranks_come_in_the_order_of_the_texts(scores, random):
    reply = [{"index": index, "score": score} for index, score in enumerate(scores)]
    random.shuffle(reply)
    assert read_ranks(reply, len(scores)) == scores


def rank(index=0, score=0.5):
    return {"index": index, "score": score}


@pytest.mark.parametrize(
    "reply",
    [
        None,
        True,
        "no",
        {"error": "no"},
        {"results": [rank(0), rank(1)]},
        [],
        [rank(0)],
        [rank(0), rank(1), rank(2)],
        [rank(0), rank(0)],
        [rank(1), rank(2)],
        [rank(0), rank(-1)],
        [rank(0), rank(None)],
        [rank(0), rank([1])],
        [rank(0), rank("1")],
        [rank(0), {"index": 1}],
        [rank(0), {"score": 1.0}],
        [rank(0), None],
        [rank(0), 0.5],
        [rank(0), rank(1, None)],
        [rank(0), rank(1, "high")],
        [rank(0), rank(1, [0.5])],
        [rank(0), rank(1, math.nan)],
        [rank(0), rank(1, math.inf)],
        [rank(0), rank(1, -math.inf)],
        [rank(0), rank(1, 10**400)],
        [rank(0), rank(1, 0.1), rank(1, 0.9)],
    ],
)
def test_ranks_are_one_finite_score_a_text_or_an_invalid_response(reply):
    with pytest.raises(InvalidResponseError, match="reranker") as caught:
        read_ranks(reply, 2)
    assert caught.value.indices == (0, 1)


# What a server says about itself.

TEI_INFO = {
    "model_id": "BAAI/bge-m3",
    "model_sha": None,
    "model_dtype": "float16",
    "model_type": {"embedding": {"pooling": "cls"}},
    "max_concurrent_requests": 512,
    "max_input_length": 8192,
    "max_batch_tokens": 16384,
    "max_batch_requests": None,
    "max_client_batch_size": 32,
    "auto_truncate": True,
    "tokenization_workers": 8,
    "version": "1.9.3",
}


def test_info_is_read_whole():
    assert read_info(TEI_INFO) == EndpointInfo(
        model_id="BAAI/bge-m3",
        version="1.9.3",
        max_client_batch_size=32,
        max_concurrent_requests=512,
        max_input_length=8192,
        max_batch_tokens=16384,
        auto_truncate=True,
        model_type={"embedding": {"pooling": "cls"}},
    )


def test_a_models_name_is_enough():
    assert read_info({"model_id": "x"}) == EndpointInfo("x")


@pytest.mark.parametrize(
    "reply",
    [None, [], [TEI_INFO], "x", 3, {}, {"model": "x"}, {"model_id": None}, {"model_id": 3}],
)
def test_what_is_not_teis_is_no_info(reply):
    assert read_info(reply) is None


@pytest.mark.parametrize(
    "name",
    ["max_client_batch_size", "max_concurrent_requests", "max_input_length", "max_batch_tokens"],
)
@pytest.mark.parametrize("value", ["32", 32.0, True, False, None, [32], {"value": 32}])
def test_a_limit_that_is_no_whole_number_is_one_that_was_not_told(name, value):
    info = read_info({**TEI_INFO, name: value})
    assert getattr(info, name) is None
    assert info.model_id == "BAAI/bge-m3"


# Metrics.


def test_metrics_are_samples_by_name_and_labels():
    page = """\
# HELP te_request_count Total requests.
# TYPE te_request_count counter
te_request_count{method="batch"} 12
te_request_count{method="a b",path="/embed {}"} 3

te_queue_size 0
te_request_duration_bucket{le="+Inf"} 1.5e3
te_ratio NaN
te_limit +Inf
te_floor -Inf
te_broken one
te_alone
"""
    samples = read_metrics(page)
    assert math.isnan(samples.pop("te_ratio"))
    assert samples == {
        'te_request_count{method="batch"}': 12.0,
        'te_request_count{method="a b",path="/embed {}"}': 3.0,
        "te_queue_size": 0.0,
        'te_request_duration_bucket{le="+Inf"}': 1500.0,
        "te_limit": math.inf,
        "te_floor": -math.inf,
    }


def test_the_time_of_a_sample_is_not_its_value():
    page = 'http_requests_total{method="post",code="200"} 1027 1395066363000\nup 1 -3982045\n'
    assert read_metrics(page) == {
        'http_requests_total{method="post",code="200"}': 1027.0,
        "up": 1.0,
    }


@given(st.text())
def test_any_page_can_be_read(page):
    assert all(isinstance(value, float) for value in read_metrics(page).values())
