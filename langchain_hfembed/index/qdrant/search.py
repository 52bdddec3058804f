"""One search in two round trips: candidates, then their scores in every view."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np

from langchain_hfembed.index.qdrant.collection import DOCUMENTS
from langchain_hfembed.index.qdrant.payload import ORDER
from langchain_hfembed.index.qdrant.plan import (
    AllOf,
    Condition,
    Engine,
    Found,
    HasId,
    Query,
)
from langchain_hfembed.index.qdrant.points import found_id, pages
from langchain_hfembed.scoring import Scores
from langchain_hfembed.vectors import FloatArray, HybridEmbedding, View

POINTS_AT_ONCE = 20_000  # ids in one request, 40 bytes each


def proposed(
    engine: Engine,
    query: HybridEmbedding,
    fetch_k: int,
    condition: Condition | None,
    *,
    exact: bool,
) -> list[Found]:
    """Documents worth scoring, in the order in which they were stored.

    Args:
        engine: Where to search.
        query: The query's views, at length 1.
        fetch_k: How many of the dense and of the sparse view, above 0.
        condition: What they must pass.
        exact: Whether to compare the query with all vectors.
    """

    def nearest(view: View) -> Query:
        vector = getattr(query, view)
        return Query(fetch_k, view, vector, condition, ("id", ORDER), exact=exact)

    alone = query.views == ("multi_vector",)
    queries = [nearest(view) for view in _searched(query) if alone or view != "multi_vector"]
    # The dense view, or a multi-vector alone, proposes all documents where they are few enough;
    # the sparse one only those that share a token. One more than fetch_k tells if they are few.
    needs_all = query.dense is None and not alone
    if needs_all:
        passing = DOCUMENTS if condition is None else AllOf((DOCUMENTS, condition))
        queries.append(Query(fetch_k + 1, condition=passing, payload=("id", ORDER)))
    answers = engine.query_batch(queries)
    if needs_all and len(answers[-1]) > fetch_k:
        del answers[-1]
    found = {each.id: each for answer in answers for each in answer}
    return sorted(found.values(), key=lambda each: (each.payload[ORDER], found_id(each)))


def scored(
    engine: Engine, query: HybridEmbedding, points: Sequence[UUID], payload: tuple[str, ...]
) -> tuple[list[Found], Scores]:
    """Those of the points that there are, with this payload, and their scores.

    Exactly: at full precision, whatever index or quantisation proposed them.

    Args:
        engine: Where they are.
        query: The query's views, at length 1.
        points: The points, each once.
        payload: Keys of the payload to bring along.
    """
    found: list[Found] = []
    scores: dict[View, list[float]] = {view: [] for view in query.views}
    for page in pages(points, POINTS_AT_ONCE):
        answers = _answers(engine, query, page, payload)
        # A document that was removed meanwhile, or is there in one of the answers only.
        everywhere = [answer for view, answer in answers.items() if view != "sparse"]
        kept = [point for point in page if all(point in answer for answer in everywhere)]
        found += [everywhere[0][point] for point in kept]
        for view, values in scores.items():
            answer = answers.get(view, {})
            # Qdrant returns no document that shares no token with the query: its score is 0.
            values += [answer[point].score if point in answer else 0.0 for point in kept]
    arrays: dict[View, FloatArray] = {
        view: np.array(values, np.float32) for view, values in scores.items()
    }
    if query.multi_vector is not None:
        arrays["multi_vector"] /= len(query.multi_vector)  # Qdrant sums where we take the mean
    return found, Scores(**arrays)


def _answers(
    engine: Engine, query: HybridEmbedding, points: Sequence[UUID], payload: tuple[str, ...]
) -> dict[View | None, dict[UUID, Found]]:
    """The points in each view, the first of which has the payload, and them all."""
    views: list[View | None] = [*_searched(query)]
    if not {"dense", "multi_vector"} & {*views}:
        views.insert(0, None)  # the sparse view returns some of the documents only
    elif views[0] == "sparse":
        views.reverse()
    among = HasId(tuple(points))
    queries = [
        Query(
            len(points),
            view,
            None if view is None else getattr(query, view),
            among,
            () if number else payload,  # once, not once a view
            exact=True,
        )
        for number, view in enumerate(views)
    ]
    return {
        view: {found.id: found for found in answer}
        for view, answer in zip(views, engine.query_batch(queries), strict=True)
    }


def _searched(query: HybridEmbedding) -> list[View]:
    """The query's views without a sparse one that has no tokens, for which nothing is found."""
    return [view for view in query.views if view != "sparse" or len(query.sparse or ())]
