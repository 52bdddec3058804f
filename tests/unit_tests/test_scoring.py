"""Scores against brute force, closed forms, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from langchain_hfembed.scoring import (
    Scores,
    mean_maxsim,
    ranks,
    score,
    sparse_dot,
    top_k,
    unit_rows,
)
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, SparseVector

# A few values again and again, so that ties at the cut are the rule.
tied_scores = st.lists(
    st.sampled_from([-math.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0, math.inf]), max_size=40
) | st.lists(st.floats(width=32, allow_nan=False), max_size=40)
score_arrays = st.builds(np.array, tied_scores, st.sampled_from([np.float32, np.float64]))


@given(score_arrays, st.integers(-2, 42))
def test_top_k_is_the_beginning_of_a_stable_sort(scores, k):
    by_score_then_position = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert top_k(scores, k).tolist() == by_score_then_position[: max(k, 0)]


@given(score_arrays, st.integers(0, 42))
def test_top_k_leaves_the_scores_as_they_are(scores, k):
    before = scores.copy()
    top_k(scores, k)
    assert np.array_equal(scores, before)


@given(score_arrays)
def test_a_rank_is_one_more_than_the_number_of_those_ahead(scores):
    expected = [
        1 + sum(other > own or (other == own and j < i) for j, other in enumerate(scores))
        for i, own in enumerate(scores)
    ]
    assert ranks(scores).tolist() == expected


# Whole numbers, so that float32 sums are exact and equality can be asked for.
whole_weights = st.dictionaries(st.integers(0, 20), st.integers(1, 50))


@given(whole_weights, whole_weights)
def test_sparse_dot_is_the_sum_over_shared_tokens(query, document):
    expected = sum(weight * document[token] for token, weight in query.items() if token in document)
    one, other = SparseVector.from_dict(query), SparseVector.from_dict(document)
    assert sparse_dot(one, other) == expected
    assert sparse_dot(other, one) == expected


# Token vectors of length 1 in the plane: an angle each.
angles = st.lists(st.floats(0, 2 * math.pi), min_size=1, max_size=6)


def _on_circle(turns):
    return np.array([[math.cos(turn), math.sin(turn)] for turn in turns], np.float32)


@given(angles, angles)
def test_mean_maxsim_is_the_double_loop(query, document):
    """A cosine of two points of the circle is the cosine of the angle between them."""
    best = [max(math.cos(q - d) for d in document) for q in query]
    expected = sum(best) / len(best)
    assert mean_maxsim(_on_circle(query), _on_circle(document)) == pytest.approx(expected, abs=1e-6)


@given(
    arrays(np.float32, (3, 4), elements=st.floats(-2, 2, width=32)),
    arrays(np.float32, (5, 4), elements=st.floats(-2, 2, width=32)),
)
def test_mean_maxsim_is_the_double_loop_in_more_dimensions(query, document):
    query, document = unit_rows(query), unit_rows(document)
    best = [
        max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document.tolist())
        for q in query.tolist()
    ]
    assert mean_maxsim(query, document) == pytest.approx(sum(best) / 3, abs=1e-5)


def test_a_best_match_may_be_negative():
    """A zero from padding, or a start value of 0, would win against it."""
    query, document = _on_circle([0, 0.1]), _on_circle([math.pi])
    assert mean_maxsim(query, document) == pytest.approx((-1 - math.cos(0.1)) / 2, abs=1e-6)


@given(angles, angles, st.floats(0, 2 * math.pi))
def test_one_more_document_token_never_lowers_the_score(query, document, another):
    before = mean_maxsim(_on_circle(query), _on_circle(document))
    assert mean_maxsim(_on_circle(query), _on_circle([*document, another])) >= before - 1e-6


@given(angles, angles, st.integers(1, 4))
def test_it_is_a_mean_so_saying_the_query_twice_changes_nothing(query, document, times):
    once = mean_maxsim(_on_circle(query), _on_circle(document))
    assert mean_maxsim(_on_circle(query * times), _on_circle(document)) == pytest.approx(
        once, abs=1e-6
    )


@given(angles, st.randoms())
def test_a_text_matches_itself_with_1_in_any_order_of_its_tokens(text, random):
    shuffled = random.sample(text, len(text))
    assert mean_maxsim(_on_circle(text), _on_circle(shuffled)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("query", "document"), [(0, 1), (1, 0), (0, 0)])
def test_maxsim_without_tokens_is_refused(query, document):
    with pytest.raises(ValueError, match="at least one token"):
        mean_maxsim(np.ones((query, 2), np.float32), np.ones((document, 2), np.float32))


@given(
    arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_rows_become_length_1_whatever_their_size_and_zeros_stay_zeros(vectors):
    lengths = np.linalg.norm(unit_rows(vectors).astype(np.float64), axis=1)
    nonzero = vectors.any(axis=1)
    assert lengths[nonzero] == pytest.approx(1, abs=1e-6)
    assert not lengths[~nonzero].any()


coordinates = st.integers(-16, 16).map(lambda quarters: quarters / 4)
dense_vectors = st.tuples(*[coordinates] * 3).map(lambda vector: np.array(vector, np.float32))
token_vectors = st.lists(st.tuples(*[coordinates] * 3), min_size=1, max_size=4).map(
    lambda rows: np.array(rows, np.float32)
)
embeddings = st.builds(
    HybridEmbedding, dense_vectors, st.builds(SparseVector.from_dict, whole_weights), token_vectors
)


def _cosine(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return one @ other / lengths if lengths else 0.0


@given(embeddings, st.lists(embeddings, max_size=4))
def test_score_is_each_views_definition_pair_by_pair(query, documents):
    """The vectors are of any length: dense and token scores are cosines all the same."""
    scores = score(query, documents)
    for position, document in enumerate(documents):
        best = [
            max(_cosine(token, other) for other in document.multi_vector)
            for token in query.multi_vector
        ]
        shared = document.sparse.to_dict()
        lexical = sum(w * shared.get(token, 0) for token, w in query.sparse.to_dict().items())
        assert scores.dense[position] == pytest.approx(
            _cosine(query.dense, document.dense), abs=1e-5
        )
        assert scores.multi_vector[position] == pytest.approx(sum(best) / len(best), abs=1e-5)
        assert scores.sparse[position] == pytest.approx(lexical)


@given(embeddings, st.lists(embeddings, max_size=5))
def test_a_document_scores_the_same_alone_and_among_longer_ones(query, documents):
    together = score(query, documents)
    for position, document in enumerate(documents):
        alone = score(query, [document])
        for view in VIEWS:
            assert getattr(together, view)[position] == getattr(alone, view)[0]


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-3, 1e3, 1e25, 1e38])
def test_scaling_vectors_changes_no_cosine(scale):
    tokens = np.array([[0.6, 0.8], [1.0, 0.0]])
    query = HybridEmbedding([3.0, 4.0], None, [[1.0, 1.0]])
    scaled = HybridEmbedding(tokens[0] * scale, None, tokens * scale)
    scores = score(query, [scaled])
    # 1e-40 has five digits left in float32.
    assert scores.dense == pytest.approx(1, abs=1e-4)
    assert scores.multi_vector == pytest.approx(1.4 / math.sqrt(2), abs=1e-4)


def test_a_dense_vector_of_zeros_matches_nothing():
    assert score(HybridEmbedding([0.0, 0.0]), [HybridEmbedding([1.0, 0.0])]).dense.tolist() == [0.0]


def test_no_documents_give_no_scores_in_every_view_of_the_query():
    query = HybridEmbedding([1.0], SparseVector.from_dict({1: 1.0}), [[1.0]])
    scores = score(query, [])
    assert len(scores) == 0
    assert all(getattr(scores, view).shape == (0,) for view in VIEWS)
    assert score(HybridEmbedding([1.0]), []).sparse is None


def test_a_view_that_one_side_lacks_is_absent_and_not_zero():
    sparse = SparseVector.from_dict({1: 2.0})
    both, dense_only = HybridEmbedding([1.0], sparse), HybridEmbedding([1.0])
    assert score(both, [both, dense_only]).sparse is None
    assert score(dense_only, [both, both]).sparse is None
    assert score(both, [both, both]).sparse.tolist() == [4.0, 4.0]


def test_scoring_leaves_the_embeddings_as_they_are():
    query = HybridEmbedding([3.0, 4.0], None, [[3.0, 4.0]])
    score(query, [query])
    assert query.dense.tolist() == [3.0, 4.0]
    assert query.multi_vector.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    "columns",
    [
        {"dense": [1.0, 2.0], "sparse": [1.0]},
        {"dense": [[1.0, 2.0]]},
        {"dense": 1.0},
        {"sparse": [], "multi_vector": [1.0]},
    ],
)
def test_scores_of_other_shapes_than_n_are_refused(columns):
    with pytest.raises(ValueError, match="one shape"):
        Scores(**columns)


def test_scores_belong_to_themselves():
    dense = np.array([1.0, 2.0], np.float32)
    scores = Scores(dense)
    dense[0] = 9
    assert scores.dense.tolist() == [1.0, 2.0]
    assert len(scores) == 2
    with pytest.raises(ValueError, match="read-only"):
        scores.dense[0] = 9
