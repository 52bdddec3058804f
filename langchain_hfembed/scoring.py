"""How well a document matches a query: one score a view, arrays in and arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.vectors import (
    FloatArray,
    HybridEmbedding,
    PerView,
    SparseVector,
    View,
    owned,
)


@dataclass(frozen=True, eq=False)
class Scores(PerView[FloatArray]):
    """Scores of n candidates for one query, float32 arrays of shape `(n,)`.

    Attributes:
        dense: Cosines, in `[-1, 1]`.
        sparse: Dot products of token weights, 0 or more, on the model's own scale.
        multi_vector: Means over the query's tokens of their best cosine, in `[-1, 1]`.

    Raises:
        ValueError: If the arrays are of different lengths.
    """

    def __post_init__(self) -> None:
        for view, values in tuple(self.present()):
            object.__setattr__(self, view, owned(values, np.float32))
        shapes = {view: values.shape for view, values in self.present()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise ValueError(f"scores must be arrays of one shape (n,); got {shapes}")

    def __len__(self) -> int:
        """How many candidates were scored."""
        return next((len(values) for _, values in self.present()), 0)


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Scale the last axis to length 1, so that dot products are cosines; zeros stay zeros."""
    wide = vectors.astype(np.float64)  # float32 loses squares of numbers above 1e19, below 1e-19
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)


def top_k(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Positions of the k highest scores, highest first, ties by position.

    Args:
        scores: Shape `(n,)`, no NaN.
        k: How many; all where there are fewer, none for 0 and below.

    Returns:
        Positions, shape `(min(k, n),)`.
    """
    if k <= 0:
        return np.empty(0, np.intp)
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    kept = _candidates(scores, k)
    if k < len(kept):
        values = scores[kept]
        # argpartition alone may keep any of the candidates that tie at the cut.
        cut = np.partition(values, -k)[-k]
        above = np.flatnonzero(values > cut)
        best = np.concatenate([above, np.flatnonzero(values == cut)[: k - len(above)]])
        kept = kept[np.sort(best)]
    return kept[np.argsort(-scores[kept], kind="stable")]


def _candidates(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Positions among which the k highest scores are, increasing; a few times k of them.

    So many blocks hold a score as high as the k-th highest of the blocks' maxima, so no lower one
    is among the best k. Finding it reads the scores once; a partition of all of them takes four
    times as long, and sixty times where most are equal, as sparse scores are.
    """
    size = math.isqrt(len(scores) // k)
    maxima = scores[: len(scores) // size * size].reshape(-1, size).max(axis=1)
    return np.flatnonzero(scores >= np.partition(maxima, -k)[-k])


def ranks(scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Rank of each score among all of them, from 1 for the highest, ties by position."""
    result = np.empty(len(scores), np.intp)
    result[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return result


def sparse_dot(query: SparseVector, document: SparseVector) -> float:
    """Sum, over the tokens that both have, of the product of their weights.

    Source:
        The lexical matching score of Chen et al. 2024, arXiv:2402.03216.
    """
    _, of_query, of_document = np.intersect1d(
        query.indices, document.indices, assume_unique=True, return_indices=True
    )
    return float(query.values[of_query] @ document.values[of_document])


def mean_maxsim(query: FloatArray, document: FloatArray) -> float:
    """Average, over the query's tokens, of each token's best match in the document.

    This is BGE-M3's ColBERT score. ColBERT itself sums; dividing by the number of query tokens
    keeps the score on the dense score's scale, so that the two can be fused.

    Args:
        query: L2-normalised token vectors, shape `(query_tokens, dim)`, no padding rows.
        document: Likewise, shape `(document_tokens, dim)`.

    Returns:
        A mean cosine, unitless, in `[-1, 1]`.

    Raises:
        ValueError: If either side has no tokens.

    Source:
        Chen et al. 2024, arXiv:2402.03216; MaxSim: arXiv:2004.12832.
    """
    if not len(query) or not len(document):
        raise ValueError("MaxSim needs at least one token on either side")
    return float((query @ document.T).max(axis=1).mean())


def mean_maxsims(query: FloatArray, tokens: FloatArray, lengths: Sequence[int]) -> FloatArray:
    """`mean_maxsim` of several documents at once.

    One product for all of them: a product a document costs ten times as much on a busy machine,
    where each waits for BLAS's threads.

    Args:
        query: L2-normalised token vectors, shape `(query_tokens, dim)`.
        tokens: Those of the documents, one after the other, shape `(sum(lengths), dim)`.
        lengths: How many tokens each document has, above 0, shape `(n,)`.

    Returns:
        Mean cosines, shape `(n,)`.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
    best = np.maximum.reduceat(tokens @ query.T, starts, axis=0)
    means: FloatArray = best.mean(axis=1)
    return means


def unit_embedding(embedding: HybridEmbedding) -> HybridEmbedding:
    """The same views, with dense and token vectors scaled to length 1."""
    dense, tokens = embedding.dense, embedding.multi_vector
    return HybridEmbedding(
        None if dense is None else unit_rows(dense),
        embedding.sparse,
        None if tokens is None else unit_rows(tokens),
    )


_SCORERS: dict[View, Callable[[Any, Any], float]] = {
    "dense": lambda query, document: float(query @ document),
    "sparse": sparse_dot,
    "multi_vector": mean_maxsim,
}


def score(query: HybridEmbedding, documents: Iterable[HybridEmbedding]) -> Scores:
    """Score documents for a query, in every view that the query and all the documents have.

    Args:
        query: The query's views.
        documents: The documents' views; may be a stream, which is never held as a whole.

    Returns:
        Scores of shape `(n,)`, one for each document.
    """
    query = unit_embedding(query)
    rows: list[dict[View, float]] = []
    for document in map(unit_embedding, documents):
        shared = [view for view in query.views if view in document.views]
        rows.append(
            {view: _SCORERS[view](getattr(query, view), getattr(document, view)) for view in shared}
        )
    everywhere = [view for view in query.views if all(view in row for row in rows)]
    return Scores(
        **{view: np.array([row[view] for row in rows], np.float32) for view in everywhere}
    )
