"""The searched half of an index in memory: dense rows and sparse columns, scored exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.vectors import FloatArray, SparseVector

_GROWTH = 1.5


class Growing:
    """An array that rows are appended to, in time proportional to what is appended.

    Args:
        dtype: Of the elements.
        shape: Of a row; `()` for numbers.
    """

    def __init__(self, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self._buffer: NDArray[Any] = np.empty((0, *shape), dtype)
        self._length = 0

    @property
    def rows(self) -> NDArray[Any]:
        """What has been appended, without copying it."""
        return self._buffer[: self._length]

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        length = self._length + len(rows)
        if length > len(self._buffer):
            grown = np.empty(
                (max(length, int(len(self._buffer) * _GROWTH)), *self._buffer.shape[1:]),
                self._buffer.dtype,
            )
            grown[: self._length] = self.rows
            self._buffer = grown
        self._buffer[self._length : length] = rows
        self._length = length

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the rows where the mask is False."""
        kept = self.rows[mask]
        self._buffer[: len(kept)] = kept
        self._length = len(kept)


class DenseMatrix:
    """Unit vectors of all documents, a row each.

    Args:
        dim: Of a vector.
    """

    def __init__(self, dim: int) -> None:
        self._vectors = Growing(np.float32, (dim,))

    def append(self, vectors: FloatArray) -> None:
        """Add documents, shape `(n, dim)`."""
        self._vectors.append(vectors)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the documents where the mask is False."""
        self._vectors.keep(mask)

    def scores(self, query: FloatArray, rows: NDArray[np.intp] | None = None) -> FloatArray:
        """Cosines with a unit query, of all documents or of those in `rows`.

        With `rows`, equal vectors have equal scores to the last bit, so that ties are ties.
        """
        if rows is not None:  # BLAS computes the last rows of a matrix unlike the others
            return cast(FloatArray, np.einsum("ij,j->i", self._vectors.rows[rows], query))
        return cast(FloatArray, self._vectors.rows @ query)


class SparseMatrix:
    """Token weights of all documents, sorted by token.

    Kept in segments, of which each is at least twice as large as the next, so that adding a
    document does not sort all weights again. Not SciPy's CSC, which has a number for each token up
    to the largest: 16 GB for hashed words, whose ids go up to 2**31.
    """

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._documents = 0

    def append(self, sizes: Sequence[int], tokens: NDArray[np.int32], values: FloatArray) -> None:
        """Add documents.

        Args:
            sizes: How many weights each has, shape `(n,)`.
            tokens: Token ids of all of them, one after the other.
            values: The weights.
        """
        rows = np.arange(self._documents, self._documents + len(sizes), dtype=np.int32)
        self._documents += len(sizes)
        self._segments.append(_Segment(tokens, np.repeat(rows, sizes), values).sorted())
        while len(self._segments) > 1 and 2 * len(self._segments[-1]) > len(self._segments[-2]):
            newer, older = self._segments.pop(), self._segments.pop()
            self._segments.append(older.merged(newer))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the documents where the mask is False."""
        self._segments = [segment.kept(mask) for segment in self._segments]
        self._documents = int(mask.sum())

    def scores(self, query: SparseVector) -> FloatArray:
        """Dot products of all documents with a query."""
        scores = np.zeros(self._documents, np.float32)
        for segment in self._segments:
            segment.add_scores(query, scores)
        return scores


@dataclass(frozen=True, eq=False)
class _Segment:
    """Weights as token, document and value, each of shape `(n,)`."""

    tokens: NDArray[np.int32]
    documents: NDArray[np.int32]
    values: FloatArray

    def __len__(self) -> int:
        return len(self.tokens)

    def sorted(self) -> _Segment:
        order = np.argsort(self.tokens, kind="stable")
        return _Segment(self.tokens[order], self.documents[order], self.values[order])

    def merged(self, newer: _Segment) -> _Segment:
        return _Segment(
            np.concatenate([self.tokens, newer.tokens]),
            np.concatenate([self.documents, newer.documents]),
            np.concatenate([self.values, newer.values]),
        ).sorted()

    def kept(self, mask: NDArray[np.bool_]) -> _Segment:
        new_rows = (np.cumsum(mask) - 1).astype(np.int32)
        stays = mask[self.documents]
        return _Segment(self.tokens[stays], new_rows[self.documents[stays]], self.values[stays])

    def add_scores(self, query: SparseVector, scores: FloatArray) -> None:
        starts = np.searchsorted(self.tokens, query.indices, "left")
        ends = np.searchsorted(self.tokens, query.indices, "right")
        for start, end, weight in zip(starts, ends, query.values, strict=True):
            scores[self.documents[start:end]] += weight * self.values[start:end]
