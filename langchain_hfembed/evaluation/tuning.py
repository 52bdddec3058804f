"""Chooses the weights of a weighted sum, and says what they are worth on queries not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation.judged import Judge, JudgedQuery, score_queries
from langchain_hfembed.evaluation.report import Difference, paired_difference
from langchain_hfembed.fusion import Fusion, Normalization, WeightedSum, fuse
from langchain_hfembed.vectors import VIEWS, View, view_title
from langchain_hfembed.vectorstore import HybridVectorStore, check_counts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 20  # weights are multiples of 1 / 20
_SEED = 0


@dataclass(frozen=True, eq=False)
class Tuning:
    """The best weights, and how far to believe in them.

    Attributes:
        fusion: With the weights that are best on all the queries; for `HybridVectorStore`.
        measure: What was maximised, such as `"nDCG@10"`; all figures are in `[0, 1]`.
        query_ids: The queries.
        grid: The weights that were tried, the nearest to the store's first.
        values: The measure for each of them and each query, shape `(len(grid), queries)`.
        before: The measure for the fusion that the store had, shape `(queries,)`.
        held_out: For each query, with the weights that are best on the *other* folds, shape
            `(queries,)`: what tuning is worth on queries that it has not seen.
        fold_fusions: The weights that were chosen without each fold; if they differ much, there
            are too few queries.
    """

    fusion: WeightedSum
    measure: str
    query_ids: tuple[str, ...]
    grid: tuple[WeightedSum, ...]
    values: NDArray[np.float64]
    before: NDArray[np.float64]
    held_out: NDArray[np.float64]
    fold_fusions: tuple[WeightedSum, ...]

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean for each weights of the grid, shape `(len(grid),)`."""
        means: NDArray[np.float64] = self.values.mean(axis=1)
        return means

    @property
    def in_sample(self) -> float:
        """The mean for `fusion` on the queries that chose it: too good to be true of others."""
        return float(self.means.max())

    @cached_property
    def gain(self) -> Difference:
        """What tuning brings on queries not seen: `held_out` less `before`."""
        return paired_difference(self.held_out, self.before)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "queries": len(self.query_ids),
            "measure": self.measure,
            "weights": _weights(self.fusion),
            "before": float(self.before.mean()),
            "held_out": float(self.held_out.mean()),
            "in_sample": self.in_sample,
            "gain": vars(self.gain),
            "fold_weights": [_weights(fusion) for fusion in self.fold_fusions],
        }

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """The measure over all weights: a triangle for three views, a line for two.

        Args:
            path: Where to save it, too, as `.png`, `.svg` or `.pdf`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from langchain_hfembed.evaluation.plot import plot_weights

        figure = plot_weights(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        by_fold = ", ".join(dict.fromkeys(map(_shown, self.fold_fusions)))
        lines = "\n".join(
            [
                f"{self.measure} of {len(self.query_ids):,} queries, in percent",
                f"before         {100 * self.before.mean():.1f}",
                f"held out       {100 * self.held_out.mean():.1f}  {self.gain} (95 % CI; "
                f"{len(self.fold_fusions)} folds)",
                f"same queries   {100 * self.in_sample:.1f}",
                f"best weights   {_shown(self.fusion)}  ({' / '.join(map(view_title, VIEWS))})",
                f"of the folds   {by_fold}",
            ]
        )
        doubt = (
            "\nThe gain may be chance: keep the weights as they were." if self.gain.low <= 0 else ""
        )
        return lines + doubt


def tune_weights(
    store: HybridVectorStore,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    folds: int = 5,
    *,
    k: int = 10,
    fetch_k: int | None = None,
    show_progress: bool = False,
) -> Tuning:
    """Find the weights of the views that give the highest nDCG, and what they are worth.

    Each query is searched for once; then all weights that are multiples of 0.05 and add up to 1
    are tried on its scores. The figure to believe is `held_out`: the queries are dealt into folds,
    and each fold is measured with the weights that are best on the others.

    Args:
        store: With the documents. Its normalization is kept; min-max, if its fusion is not a
            `WeightedSum`.
        queries: Texts by query id; some hundred, for weights that hold on others.
        qrels: Relevance by query id and document id; queries without any are left out.
        folds: How many; from 2 to the number of queries.
        k: Where nDCG is cut.
        fetch_k: Candidates of the dense and of the sparse view, at least k; None for the store's.
        show_progress: Show a bar.

    Raises:
        InvalidInputError: If the encoder has one view only, or there are fewer queries than folds.
    """
    check_counts(k, fetch_k)
    depth = max(k, store.fetch_k if fetch_k is None else fetch_k)
    judged = score_queries(store, queries, qrels, fetch_k=depth, show_progress=show_progress)
    return tune_scores(judged, store.fusion, folds, k)


def tune_scores(judged: Sequence[JudgedQuery], fusion: Fusion, folds: int, k: int) -> Tuning:
    """`tune_weights`, for queries that have been searched for."""
    views = [view for view, _ in judged[0].scores.present()]
    if len(views) < 2:
        raise InvalidInputError(f"there is one view only, {views[0]}, and so nothing to weigh")
    check_folds(folds, len(judged))
    normalization = fusion.normalization if isinstance(fusion, WeightedSum) else "min_max"
    current = fusion if isinstance(fusion, WeightedSum) else WeightedSum()
    # The nearest to what there is come first: of equally good weights, the first are taken.
    grid = tuple(
        sorted(simplex(views, normalization), key=lambda tried: _distance(tried, current, views))
    )
    judge = Judge(judged, [k])
    name = f"nDCG@{k}"
    normalized = [_normalized(query, views, normalization) for query in judged]
    weights = np.array([[getattr(fusion, view) for view in views] for fusion in grid])
    values = np.array(
        [
            judge.measure((row @ scores).astype(np.float32) for scores in normalized)[name]
            for row in weights
        ]
    )
    before = judge.measure(fuse(fusion, query.scores) for query in judged)[name]
    held_out, chosen = _cross_validate(values, folds)
    return Tuning(
        fusion=grid[int(values.mean(axis=1).argmax())],
        measure=name,
        query_ids=tuple(query.id for query in judged),
        grid=grid,
        values=values,
        before=before,
        held_out=held_out,
        fold_fusions=tuple(grid[position] for position in chosen),
    )


def check_folds(folds: object, queries: int) -> None:
    """Raise InvalidInputError unless so many queries can be dealt into so many folds."""
    if not isinstance(folds, int) or not 2 <= folds <= queries:
        raise InvalidInputError(
            f"folds={folds} must be a whole number from 2 to the number of queries, {queries}"
        )


def simplex(
    views: Sequence[View], normalization: Normalization | None = "min_max"
) -> tuple[WeightedSum, ...]:
    """All weights that are multiples of 0.05 and add up to 1; 0 for other views."""
    absent = dict.fromkeys(set(VIEWS) - set(views), 0.0)
    return tuple(
        WeightedSum(
            **absent,
            **{view: steps / _STEPS for view, steps in zip(views, shares, strict=True)},
            normalization=normalization,
        )
        for shares in product(range(_STEPS + 1), repeat=len(views))
        if sum(shares) == _STEPS
    )


def _distance(one: WeightedSum, other: WeightedSum, views: Sequence[View]) -> float:
    """How far apart weights are, once both add up to 1."""
    weights = np.array([[getattr(fusion, view) for view in views] for fusion in (one, other)])
    totals = weights.sum(axis=1, keepdims=True)
    shares = weights / np.where(totals > 0, totals, 1)
    return float(np.linalg.norm(shares[0] - shares[1]))


def _normalized(
    query: JudgedQuery, views: Sequence[View], normalization: Normalization | None
) -> NDArray[np.float64]:
    """The scores of a query's candidates on the fusion's scale, shape `(views, n)`."""
    if not query.candidates:
        return np.empty((len(views), 0))
    # A view's share for the weight 1 is its normalised score.
    return np.array([_alone(view, normalization).shares(query.scores)[view] for view in views])


def _alone(view: View, normalization: Normalization | None) -> WeightedSum:
    """A sum of one view alone."""
    weights = dict.fromkeys(VIEWS, 0.0) | {view: 1.0}
    return WeightedSum(**weights, normalization=normalization)


def _cross_validate(
    values: NDArray[np.float64], folds: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Held-out values of each query, and which weights were chosen without each fold."""
    queries = values.shape[1]
    fold_of = np.random.default_rng(_SEED).permutation(queries) % folds
    held_out = np.empty(queries)
    chosen = []
    for fold in range(folds):
        is_out = fold_of == fold
        best = int(values[:, ~is_out].mean(axis=1).argmax())
        held_out[is_out] = values[best, is_out]
        chosen.append(best)
    return held_out, chosen


def _weights(fusion: WeightedSum) -> dict[str, float]:
    return {view: getattr(fusion, view) for view in VIEWS}


def _shown(fusion: WeightedSum) -> str:
    return " / ".join(f"{weight:.2f}" for weight in _weights(fusion).values())
