"""Fusion against closed forms, its bounds and symmetries, and what it refuses."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_hfembed.fusion import ReciprocalRankFusion, WeightedSum, dbsf, fuse, min_max
from langchain_hfembed.scoring import Scores
from langchain_hfembed.vectors import VIEWS

# Whatever float32 holds: denormals, 1e38 and equal values among them.
any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
extremes = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e-38, 1e38, -1e38, 3.4e38, -3.4e38])
any_scores = st.lists(any_float | extremes, min_size=1, max_size=20).map(
    lambda values: np.array(values, np.float32)
)
# Whole numbers, so that sums and differences are exact.
whole_scores = st.lists(st.integers(-50, 50), min_size=1, max_size=20).map(
    lambda values: np.array(values, np.float32)
)
# Eighths from -1 to 30, a candidate's three scores in a row; columns are views.
ordinary = st.integers(-8, 240).map(lambda eighths: eighths / 8)
three_views = st.lists(st.tuples(ordinary, ordinary, ordinary), min_size=1, max_size=8).map(
    lambda rows: np.array(rows, np.float32).T
)
three_views_without_ties = (
    st.integers(1, 8)
    .flatmap(lambda n: st.tuples(*[st.lists(ordinary, min_size=n, max_size=n, unique=True)] * 3))
    .map(lambda views: np.array(views, np.float32))
)
some_weights = st.tuples(*[st.floats(0, 10) | st.integers(0, 5)] * 3).filter(
    lambda weights: sum(weights) > 1e-3
)
both_normalizations = pytest.mark.parametrize("normalize", [min_max, dbsf])
normalizations = st.sampled_from(["min_max", "dbsf", None])
FUSIONS = (
    WeightedSum(),
    WeightedSum(normalization="dbsf"),
    WeightedSum(normalization=None),
    ReciprocalRankFusion(),
)
fusions = st.sampled_from(FUSIONS)


@both_normalizations
@given(any_scores)
def test_normalised_scores_are_float32_between_0_and_1(normalize, scores):
    normalised = normalize(scores)
    assert normalised.dtype == np.float32
    assert normalised.shape == scores.shape
    assert ((normalised >= 0) & (normalised <= 1)).all()


@both_normalizations
@given(any_scores)
def test_normalising_keeps_the_order(normalize, scores):
    in_order = normalize(scores)[np.argsort(scores, kind="stable")]
    assert (in_order[1:] >= in_order[:-1]).all()


@both_normalizations
@given(any_scores)
def test_normalising_leaves_the_scores_as_they_are(normalize, scores):
    before = scores.copy()
    normalize(scores)
    assert np.array_equal(scores, before)


@both_normalizations
@pytest.mark.parametrize(
    ("value", "expected"), [(-1, 0), (-0.0, 0), (0, 0), (1e-45, 1), (0.3, 1), (3.4e38, 1)]
)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_scores_become_1_above_zero_and_0_elsewhere(normalize, value, expected, n):
    assert normalize(np.full(n, value, np.float32)).tolist() == [expected] * n


@given(any_scores)
def test_min_max_reaches_0_and_1(scores):
    assume(scores.min() < scores.max())
    normalised = min_max(scores)
    assert normalised[scores.argmin()] == 0
    assert normalised[scores.argmax()] == 1


@given(whole_scores)
def test_min_max_is_the_share_of_the_way_from_lowest_to_highest(scores):
    low, high = int(scores.min()), int(scores.max())
    assume(low < high)
    expected = [(int(score) - low) / (high - low) for score in scores]
    assert min_max(scores) == pytest.approx(expected)


@given(whole_scores)
def test_dbsf_maps_three_deviations_either_side_of_the_mean(scores):
    values = [int(score) for score in scores]
    assume(min(values) < max(values))
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    low, high = mean - 3 * deviation, mean + 3 * deviation
    expected = [min(1, max(0, (value - low) / (high - low))) for value in values]
    assert dbsf(scores) == pytest.approx(expected, abs=1e-6)


def test_dbsf_clips_an_outlier_and_keeps_the_others_apart_from_0():
    """One score in 101 lies ten deviations above the mean."""
    normalised = dbsf(np.array([0] * 100 + [1], np.float32))
    assert normalised[-1] == 1
    assert 0.4 < normalised[0] < 0.5


@both_normalizations
@given(whole_scores, st.integers(1, 40), st.integers(-100, 100))
def test_another_scale_and_another_zero_make_no_difference(normalize, scores, scale, zero):
    assume(scores.min() < scores.max())
    assert normalize(scores * scale + zero) == pytest.approx(normalize(scores), abs=1e-5)


@given(
    three_views,
    some_weights,
    st.sampled_from([("min_max", min_max), ("dbsf", dbsf), (None, lambda x: x)]),
)
def test_the_weighted_sum_is_a_weighted_mean_of_normalised_scores(views, weights, named):
    normalization, normalize = named
    expected = sum(
        weight * normalize(scores).astype(np.float64)
        for weight, scores in zip(weights, views, strict=True)
    ) / sum(weights)
    fused = WeightedSum(*weights, normalization)(Scores(*views))
    assert fused == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_raw_sum_keeps_an_absolute_scale():
    """BGE-M3's compute_score of the model card: 0.4 × 0.6 + 0.2 × 0.2 + 0.4 × 0.7."""
    raw = WeightedSum(normalization=None)
    assert raw(Scores([0.6], [0.2], [0.7])) == pytest.approx([0.56])
    assert raw(Scores([0.6, -0.5], [0.2, 0], [0.7, 0.1]))[0] == raw(Scores([0.6], [0.2], [0.7]))[0]


@given(three_views, some_weights, st.sampled_from(VIEWS), normalizations)
def test_an_absent_view_is_a_view_without_weight(views, weights, absent, normalization):
    named = dict(zip(VIEWS, weights, strict=True))
    assume(sum(named.values()) - named[absent] > 1e-3)
    whole = Scores(*views)
    without = Scores(**{**whole.to_dict(), absent: None})
    fused = WeightedSum(**named, normalization=normalization)(without)
    unweighted = WeightedSum(**{**named, absent: 0}, normalization=normalization)(whole)
    assert fused == pytest.approx(unweighted, rel=1e-5, abs=1e-6)


@given(three_views, st.sampled_from(["min_max", "dbsf"]))
def test_the_fused_score_stays_between_0_and_1_with_one_view_or_three(views, normalization):
    dense, sparse, multi_vector = views
    for scores in (Scores(*views), Scores(dense, sparse), Scores(None, None, multi_vector)):
        fused = WeightedSum(normalization=normalization)(scores)
        assert fused.min() >= 0
        assert fused.max() <= 1 + 1e-6


@given(any_scores, st.sampled_from(VIEWS), fusions)
def test_one_view_alone_keeps_its_order(scores, view, fusion):
    fused = fusion(Scores(**{view: scores}))
    in_order = fused[np.argsort(-scores, kind="stable")]
    assert (in_order[1:] <= in_order[:-1]).all()


@given(three_views_without_ties, st.randoms(), fusions)  # reciprocal ranks break ties by position
def test_shuffled_candidates_get_the_same_scores_shuffled(views, random, fusion):
    order = random.sample(range(views.shape[1]), views.shape[1])
    shuffled = fusion(Scores(*views[:, order]))
    assert shuffled == pytest.approx(fusion(Scores(*views))[order], rel=1e-5, abs=1e-6)


@given(three_views, some_weights, st.floats(-0.9, 100))
def test_reciprocal_rank_fusion_is_its_formula(views, weights, constant):
    n = len(views[0])
    expected = []
    for i in range(n):
        total = 0.0
        for scores, weight in zip(views, weights, strict=True):
            ahead = sum(
                scores[j] > scores[i] or (scores[j] == scores[i] and j < i) for j in range(n)
            )
            total += weight / (constant + 1 + ahead)
        expected.append(total)
    fused = ReciprocalRankFusion(constant, *weights)(Scores(*views))
    assert fused == pytest.approx(expected, rel=1e-5)


def test_reciprocal_ranks_count_from_1_and_ties_go_by_position():
    fused = ReciprocalRankFusion()(Scores(dense=[0.5, 0.9, 0.5]))
    assert fused == pytest.approx([1 / 62, 1 / 61, 1 / 63])


def test_the_default_constant_is_that_of_cormack_and_others():
    assert ReciprocalRankFusion()(Scores([1.0], [1.0], [1.0])) == pytest.approx([3 / 61])


@given(three_views, st.floats(1e-3, 1e3))
def test_reciprocal_ranks_do_not_see_scales(views, scale):
    dense, sparse, multi_vector = views
    scaled = (sparse * np.float32(scale)).astype(np.float32)
    # Rounding may make two scores equal; then their order is another.
    assume(len(np.unique(scaled)) == len(np.unique(sparse)))
    fused = ReciprocalRankFusion()(Scores(dense, scaled, multi_vector))
    assert np.array_equal(fused, ReciprocalRankFusion()(Scores(*views)))


@pytest.mark.parametrize("kind", [WeightedSum, ReciprocalRankFusion])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("weight", [-1, -1e-9, math.nan, math.inf, -math.inf])
def test_a_negative_or_not_finite_weight_is_refused_by_name(kind, view, weight):
    with pytest.raises(ValueError, match=f"{view}="):
        kind(**{view: weight})


@pytest.mark.parametrize("kind", [WeightedSum, ReciprocalRankFusion])
def test_all_zero_weights_and_weights_with_an_infinite_sum_are_refused(kind):
    with pytest.raises(ValueError, match="all weights are 0"):
        kind(dense=0, sparse=0, multi_vector=0)
    with pytest.raises(ValueError, match="infinity"):
        kind(dense=1e308, sparse=1e308, multi_vector=0)


@pytest.mark.parametrize("kind", [WeightedSum, ReciprocalRankFusion])
def test_none_is_no_weight(kind):
    with pytest.raises(TypeError):
        kind(dense=None)


@pytest.mark.parametrize("kind", [WeightedSum, ReciprocalRankFusion])
def test_weight_on_an_absent_view_only_is_refused_naming_those_present(kind):
    fusion = kind(dense=0, sparse=1, multi_vector=0)
    with pytest.raises(ValueError, match="dense, multi_vector"):
        fusion(Scores(dense=[1.0], multi_vector=[1.0]))


@pytest.mark.parametrize("constant", [-1, -5, math.nan, math.inf])
def test_a_rank_constant_that_could_divide_by_zero_is_refused(constant):
    with pytest.raises(ValueError, match="rank_constant"):
        ReciprocalRankFusion(constant)


@pytest.mark.parametrize("name", ["minmax", "", "none", "MIN_MAX"])
def test_an_unknown_normalization_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match="'min_max', 'dbsf', None"):
        WeightedSum(normalization=name)


@pytest.mark.parametrize("fusion", FUSIONS, ids=["min_max", "dbsf", "raw", "rrf"])
@pytest.mark.parametrize("present", [VIEWS, ("dense",), ("sparse", "multi_vector"), ()])
def test_no_candidates_give_no_scores(fusion, present):
    fused = fuse(fusion, Scores(**{view: np.zeros(0) for view in present}))
    assert fused.shape == (0,)
    assert fused.dtype == np.float32


@pytest.mark.parametrize("normalization", ["min_max", "dbsf"])
@given(any_scores, any_scores)
def test_extreme_scores_fuse_to_finite_ones(normalization, one, other):
    n = min(len(one), len(other))
    fused = fuse(WeightedSum(normalization=normalization), Scores(one[:n], other[:n]))
    assert np.isfinite(fused).all()


def test_any_callable_is_a_fusion_and_sees_an_absent_view_as_none():
    def dense_unless_there_is_more(scores):
        assert scores.sparse is None
        assert scores.multi_vector.tolist() == [3.0, 4.0]
        return scores.dense - 1

    fused = fuse(dense_unless_there_is_more, Scores(dense=[1.0, 2.0], multi_vector=[3.0, 4.0]))
    assert fused.tolist() == [0.0, 1.0]
    assert fused.dtype == np.float32


def test_a_callable_may_return_a_list():
    assert fuse(lambda scores: [1, 2], Scores([0.0, 0.0])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        [1.0],
        [1.0, 2.0, 3.0],
        [[1.0], [2.0]],
        1.0,
        None,
        [1.0, math.nan],
        [math.inf, 1.0],
        [],
    ],
)
def test_a_callable_must_return_one_finite_score_a_candidate(wrong):
    with pytest.raises(ValueError, match="must return 2 finite scores"):
        fuse(lambda scores: wrong, Scores([0.0, 0.0]))


def test_a_callable_cannot_change_the_scores_it_is_given():
    def in_place(scores):
        scores.dense[:] = 0
        return scores.dense

    with pytest.raises(ValueError, match="read-only"):
        fuse(in_place, Scores([1.0]))
