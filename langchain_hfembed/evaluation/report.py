"""What an evaluation finds: measures of each view and of fusions, and how sure differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.evaluation.judged import Judge, JudgedQuery, score_queries
from langchain_hfembed.fusion import Fusion, fuse
from langchain_hfembed.vectors import VIEWS, view_title
from langchain_hfembed.vectorstore import HybridVectorStore, check_counts

FUSION = "fusion"
_CONFIDENCE = 0.95
_RESAMPLES = 9_999
_RESAMPLES_AT_ONCE = 500  # 9,999 of 10,000 queries would be 800 MB


@dataclass(frozen=True)
class Difference:
    """How much better one ranking is than another on the same queries.

    Attributes:
        mean: Of the queries' differences, in `[-1, 1]`; above 0 where the first one is better.
        low: Of the 95 % confidence interval of the mean. If 0 lies within, the difference may be
            chance.
        high: Likewise.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well each view and each fusion retrieves.

    Printed, it is a table in percent: nDCG and RR at the first k, R at the last; `means` has all.

    Attributes:
        query_ids: The queries that were measured.
        values: By ranking (a view, or a fusion's name) and measure, one number a query, shape
            `(queries,)`, in `[0, 1]`: `values["fusion"]["nDCG@10"]`.
        baseline: The ranking that others are held against in the table.
    """

    query_ids: tuple[str, ...]
    values: dict[str, dict[str, NDArray[np.float64]]]
    baseline: str

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Means over the queries, in `[0, 1]`: `means["fusion"]["nDCG@10"]`."""
        return {
            ranking: {name: float(values.mean()) for name, values in measures.items()}
            for ranking, measures in self.values.items()
        }

    @property
    def measures(self) -> list[str]:
        """The measures' names: nDCG, RR and R at each k."""
        return list(self.values[self.baseline])

    def difference(
        self, ranking: str, baseline: str | None = None, measure: str | None = None
    ) -> Difference:
        """How much better a ranking is than another one, query by query.

        Args:
            ranking: A view, or a fusion's name.
            baseline: Likewise; None for the first fusion.
            measure: None for the first one, nDCG at the first k.

        Raises:
            InvalidInputError: If there is no such ranking or measure, or only one query.

        Source:
            Paired percentile bootstrap: Efron and Tibshirani 1993, chapter 13; Smucker et al. 2007,
            doi:10.1145/1321440.1321528.
        """
        measure = self.measures[0] if measure is None else measure
        ours = self._values(ranking, measure)
        return paired_difference(ours, self._values(baseline or self.baseline, measure))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: means of each ranking, and its difference to the baseline in the first measure.

        Everything in `[0, 1]`.
        """
        return {
            "queries": len(self.query_ids),
            "measures": self.means,
            "baseline": self.baseline,
            "differences": {
                ranking: {self.measures[0]: vars(self.difference(ranking))}
                for ranking in self._others()
            },
        }

    def rows(self) -> list[list[str]]:
        """The table, a head and a row for each ranking, in percent."""
        measures = [*self.measures[:2], self.measures[-1]]
        head = ["", *measures]
        others = self._others()
        if others:
            head.append(f"{self.measures[0]} vs {self.baseline} [95 % CI]")
        rows = [head]
        for ranking, means in self.means.items():
            row = [view_title(ranking), *(f"{100 * means[name]:.1f}" for name in measures)]
            if others:
                row.append(str(self.difference(ranking)) if ranking in others else "")
            rows.append(row)
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [cells[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            ).rstrip()
            for cells in rows
        )

    def _others(self) -> list[str]:
        """What there is to hold against the baseline; nothing can be said of one query."""
        if len(self.query_ids) < 2:
            return []
        return [ranking for ranking in self.values if ranking != self.baseline]

    def _values(self, ranking: str, measure: str) -> NDArray[np.float64]:
        try:
            return self.values[ranking][measure]
        except KeyError as error:
            raise InvalidInputError(
                f"there is no {error.args[0]!r}; rankings are {', '.join(self.values)}, measures "
                f"{', '.join(self.measures)}"
            ) from None


def evaluate(
    store: HybridVectorStore,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    k: Sequence[int] = (10, 100),
    *,
    fusions: Mapping[str, Fusion] | None = None,
    fetch_k: int | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Measure how well each view of a store retrieves, and their fusion.

    All of them rank the same candidates, those of a search: the best `fetch_k` of the dense and of
    the sparse view, united.

    Args:
        store: With the documents.
        queries: Texts by query id.
        qrels: Relevance by query id and document id; 0 is not relevant. Queries without any
            judgement are left out; those with nothing but 0 count as 0, as in trec_eval.
        k: Where rankings are cut: nDCG, RR and R are measured at each.
        fusions: What to compare, by name; None for the store's own, named `"fusion"`.
        fetch_k: At least the largest k; None for the store's.
        show_progress: Show a bar.

    Returns:
        The measures, query by query; print it.

    Raises:
        InvalidInputError: If no query has judgements, a `k` is below 1, or a fusion has a view's
            name.

    Source:
        nDCG: Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418, as trec_eval has it.
    """
    check_cuts(k)
    check_counts(max(k), fetch_k)
    fusions = {FUSION: store.fusion} if fusions is None else fusions
    depth = max(*k, store.fetch_k if fetch_k is None else fetch_k)
    judged = score_queries(store, queries, qrels, fetch_k=depth, show_progress=show_progress)
    return evaluate_scores(judged, fusions, k)


def evaluate_scores(
    judged: Sequence[JudgedQuery], fusions: Mapping[str, Fusion], k: Sequence[int]
) -> Evaluation:
    """`evaluate`, for queries that have been searched for."""
    if not fusions or not set(VIEWS).isdisjoint(fusions):
        raise InvalidInputError(
            f"fusions={list(fusions)} must have names, and other ones than {', '.join(VIEWS)}"
        )
    judge = Judge(judged, k)
    values: dict[str, dict[str, NDArray[np.float64]]] = {
        view: judge.measure(getattr(query.scores, view) for query in judged)
        for view, _ in judged[0].scores.present()
    }
    for name, fusion in fusions.items():
        values[name] = judge.measure(fuse(fusion, query.scores) for query in judged)
    return Evaluation(tuple(query.id for query in judged), values, next(iter(fusions)))


def paired_difference(values: NDArray[np.float64], baseline: NDArray[np.float64]) -> Difference:
    """The mean of differences, and its bootstrap interval; the same one each time.

    Args:
        values: One number a query, shape `(queries,)`.
        baseline: Likewise, of the same queries.

    Raises:
        InvalidInputError: If there is but one query.
    """
    from scipy.stats import bootstrap

    differences = values - baseline
    if len(differences) < 2:
        raise InvalidInputError("one query tells nothing about others; give two or more")
    interval = bootstrap(
        (differences,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_RESAMPLES_AT_ONCE,
        confidence_level=_CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return Difference(float(differences.mean()), float(interval.low), float(interval.high))


def check_cuts(k: object) -> None:
    """Raise InvalidInputError unless rankings can be cut there."""
    cuts = k if isinstance(k, Sequence) else ()
    if not cuts or not all(isinstance(cut, int) and cut >= 1 for cut in cuts):
        raise InvalidInputError(f"k={k!r} must be whole numbers, 1 or more, such as (10, 100)")
