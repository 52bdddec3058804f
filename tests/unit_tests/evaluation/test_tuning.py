"""The weights that are found are the best of the grid; held-out figures have not seen theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from langchain_hfembed import HybridVectorStore, ReciprocalRankFusion, WeightedSum
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation import evaluate, tune_weights
from langchain_hfembed.evaluation.judged import JudgedQuery
from langchain_hfembed.evaluation.report import evaluate_scores
from langchain_hfembed.evaluation.tuning import Tuning, simplex, tune_scores
from langchain_hfembed.scoring import Scores
from langchain_hfembed.vectors import VIEWS
from tests.encoders import HashEncoder
from tests.unit_tests.evaluation.conftest import DOCUMENTS, QRELS, QUERIES

Views = Callable[[np.random.Generator, np.ndarray], dict[str, np.ndarray]]


def queries(views: Views, count: int = 60, candidates: int = 40) -> list[JudgedQuery]:
    """Queries with five relevant candidates each; `views` draws scores, given which these are."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        is_relevant = np.zeros(candidates)
        is_relevant[rng.choice(candidates, 5, replace=False)] = 1
        ids = [f"d{position}" for position in range(candidates)]
        relevance = {ids[position]: 1 for position in np.flatnonzero(is_relevant)}
        scores = Scores(**{v: s.astype(np.float32) for v, s in views(rng, is_relevant).items()})
        made.append(JudgedQuery(f"q{number}", ids, scores, relevance))
    return made


def noisy(**strengths: float) -> Views:
    """Views that tell the relevant ones apart so well."""

    def draw(rng: np.random.Generator, is_relevant: np.ndarray) -> dict[str, np.ndarray]:
        return {
            view: strength * is_relevant + rng.normal(size=len(is_relevant))
            for view, strength in strengths.items()
        }

    return draw


ALL = noisy(dense=1.0, sparse=0.3, multi_vector=2.0)


@pytest.fixture(scope="module")
def tuning() -> Tuning:
    return tune_scores(queries(ALL), WeightedSum(), folds=5, k=10)


def test_the_grid_is_the_whole_simplex() -> None:
    grid = simplex(VIEWS)
    weights = np.array([[getattr(fusion, view) for view in VIEWS] for fusion in grid])
    assert len(grid) == len(set(grid)) == 231
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert {tuple(row) for row in np.eye(3)} <= {tuple(row) for row in weights}
    assert {fusion.sparse for fusion in simplex(["dense", "multi_vector"])} == {0}


@pytest.mark.parametrize("normalization", ["min_max", "dbsf", None])
def test_values_are_those_of_the_weighted_sums(normalization) -> None:
    judged = queries(ALL, count=20)
    tuning = tune_scores(judged, WeightedSum(normalization=normalization), folds=4, k=10)
    assert {fusion.normalization for fusion in tuning.grid} == {normalization}
    sample = range(0, len(tuning.grid), 23)
    fusions = {str(position): tuning.grid[position] for position in sample}
    measured = evaluate_scores(judged, fusions, [10]).values
    for position in sample:
        np.testing.assert_array_equal(tuning.values[position], measured[str(position)]["nDCG@10"])
    before = evaluate_scores(judged, {"before": WeightedSum(normalization=normalization)}, [10])
    np.testing.assert_array_equal(tuning.before, before.values["before"]["nDCG@10"])


def test_the_best_weights_are_the_best_of_the_grid(tuning: Tuning) -> None:
    means = tuning.values.mean(axis=1)
    assert tuning.in_sample == means.max()
    assert tuning.grid[int(means.argmax())] == tuning.fusion
    # Of independent views of equal noise, weights in proportion to their strength are best.
    assert tuning.fusion.multi_vector > tuning.fusion.dense > tuning.fusion.sparse


def test_a_view_that_knows_everything_gets_the_weight() -> None:
    tuning = tune_scores(
        queries(noisy(dense=0.0, sparse=50.0, multi_vector=0.0)), WeightedSum(), folds=3, k=10
    )
    assert tuning.fusion.sparse >= 0.5 > WeightedSum().sparse
    assert tuning.in_sample == 1
    assert tuning.held_out.mean() > 0.99
    assert tuning.gain.low > 0


def test_held_out_values_come_from_weights_that_have_not_seen_the_query() -> None:
    """Of as many folds as queries, which leaves no doubt who was left out."""
    judged = queries(ALL, count=24)
    tuning = tune_scores(judged, WeightedSum(), folds=24, k=10)
    for position in range(24):
        others = np.delete(tuning.values, position, axis=1).mean(axis=1)
        assert tuning.held_out[position] == tuning.values[others.argmax(), position]


def test_folds_are_of_one_size_and_each_has_its_weights(tuning: Tuning) -> None:
    assert len(tuning.fold_fusions) == 5
    chosen = [tuning.grid.index(fusion) for fusion in tuning.fold_fusions]
    for position, value in enumerate(tuning.held_out):
        assert value in tuning.values[chosen, position]
    assert tuning.held_out.mean() <= tuning.in_sample
    again = tune_scores(queries(ALL), WeightedSum(), folds=5, k=10)
    np.testing.assert_array_equal(tuning.held_out, again.held_out)


def test_noise_is_not_mistaken_for_a_gain() -> None:
    """Views that tell nothing: in sample the best of 231 looks better, held out it does not."""
    tuning = tune_scores(
        queries(noisy(dense=0.0, sparse=0.0, multi_vector=0.0), count=100), WeightedSum(), 5, 10
    )
    assert tuning.in_sample > tuning.before.mean() + 0.01
    assert tuning.held_out.mean() < tuning.in_sample - 0.01
    assert tuning.gain.low < 0 < tuning.gain.high


def test_a_store_is_tuned_and_its_scores_computed_once() -> None:
    encoder = HashEncoder()
    store = HybridVectorStore(encoder, fusion=ReciprocalRankFusion())
    store.add_texts(list(DOCUMENTS.values()), ids=list(DOCUMENTS))
    asked: list[list[str]] = []
    encode = encoder.encode_queries
    encoder.encode_queries = lambda texts, views=None: (  # type: ignore[method-assign]
        asked.append(list(texts)) or encode(texts, views)
    )
    tuning = tune_weights(store, QUERIES, QRELS, folds=3, k=3)
    assert asked == [list(QUERIES.values())]
    assert tuning.fusion.normalization == "min_max"  # ranks have none
    fusions = {"before": store.fusion, "tuned": tuning.fusion}
    evaluation = evaluate(store, QUERIES, QRELS, [3], fusions=fusions)
    assert evaluation.means["tuned"]["nDCG@3"] == pytest.approx(tuning.in_sample)
    assert evaluation.means["before"]["nDCG@3"] == pytest.approx(tuning.before.mean())


@pytest.mark.parametrize("folds", [1, 0, 7, 2.0])
def test_folds_are_from_two_to_the_number_of_queries(folds: int) -> None:
    with pytest.raises(
        InvalidInputError, match=f"folds={folds} must be a whole number from 2 .* 6"
    ):
        tune_scores(queries(ALL, count=6), WeightedSum(), folds=folds, k=10)


def test_of_one_view_there_is_nothing_to_weigh() -> None:
    with pytest.raises(InvalidInputError, match="one view only, dense"):
        tune_scores(queries(noisy(dense=1.0), count=6), WeightedSum(), folds=2, k=10)


@pytest.mark.parametrize("current", [WeightedSum(), WeightedSum(1, 0, 0), WeightedSum(0, 2, 6)])
def test_of_equally_good_weights_those_nearest_to_the_old_ones_are_taken(
    current: WeightedSum,
) -> None:
    everything = noisy(dense=50.0, sparse=50.0, multi_vector=50.0)
    tuning = tune_scores(queries(everything, count=10), current, folds=2, k=10)
    total = current.dense + current.sparse + current.multi_vector
    for fusion in (tuning.fusion, *tuning.fold_fusions):
        for view in VIEWS:
            assert getattr(fusion, view) == pytest.approx(getattr(current, view) / total)
    assert "keep the weights as they were" in str(tuning)


def test_a_query_without_candidates_counts_as_nothing_found() -> None:
    empty = JudgedQuery("none", [], Scores(**{v: np.empty(0, np.float32) for v in VIEWS}), {"d": 1})
    tuning = tune_scores([*queries(ALL, count=4), empty], WeightedSum(), folds=2, k=10)
    assert tuning.values[:, 4].tolist() == [0] * len(tuning.grid)


# Output


def test_a_tuning_is_printed_and_is_json(tuning: Tuning) -> None:
    shown = str(tuning)
    assert f"held out       {100 * tuning.held_out.mean():.1f}  {tuning.gain}" in shown
    assert f"same queries   {100 * tuning.in_sample:.1f}" in shown
    weights = [f"{getattr(tuning.fusion, view):.2f}" for view in VIEWS]
    assert f"best weights   {' / '.join(weights)}  (dense / sparse / multi-vector)" in shown
    found = json.loads(json.dumps(tuning.to_dict()))
    assert found["weights"] == {view: getattr(tuning.fusion, view) for view in VIEWS}
    assert found["held_out"] == tuning.held_out.mean()
    assert len(found["fold_weights"]) == 5


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_triangle_is_drawn_and_saved(suffix: str, tuning: Tuning, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    figure = tuning.plot(path)
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])
    axes, colours = figure.axes
    assert f"held out {100 * tuning.held_out.mean():.1f}" in axes.get_title()
    assert colours.get_ylabel() == "nDCG@10, percent"
    assert {text.get_text() for text in axes.texts} == {"dense", "sparse", "multi-vector"}
    # The star lies where the weights are: corners are at (0, 0), (1, 0) and (1/2, √3/2).
    star = axes.collections[-1].get_offsets()[0]
    best = tuning.fusion
    assert star[0] == pytest.approx(best.sparse + best.multi_vector / 2)
    assert star[1] == pytest.approx(best.multi_vector * 3**0.5 / 2)


def test_two_views_are_drawn_as_a_line() -> None:
    tuning = tune_scores(queries(noisy(dense=1.0, multi_vector=2.0)), WeightedSum(), folds=3, k=10)
    [axes] = tuning.plot().axes
    [line] = axes.lines
    np.testing.assert_allclose(np.sort(line.get_xdata()), np.linspace(0, 1, 21))
    assert max(line.get_ydata()) == pytest.approx(100 * tuning.in_sample)
    assert "weight of multi-vector" in axes.get_xlabel()
