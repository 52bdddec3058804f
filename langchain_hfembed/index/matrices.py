"""The searched half of an index in memory: dense rows and sparse columns, scored exactly."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Token weights of all documents; searched by token, for which they are sorted on demand."""

    def __init__(self) -> None:
        self._sizes = Growing(np.int64)
        self._indices = Growing(np.int32)
        self._values = Growing(np.float32)
        self._by_token: tuple[NDArray[np.int32], NDArray[np.int32], FloatArray] | None = None

    def append(self, sizes: Sequence[int], indices: NDArray[np.int32], values: FloatArray) -> None:
        """Add documents.

        Args:
            sizes: How many weights each has, shape `(n,)`.
            indices: Token ids of all of them, one after the other.
            values: The weights.
        """
        self._sizes.append(np.asarray(sizes, np.int64))
        self._indices.append(indices)
        self._values.append(values)
        self._by_token = None

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the documents where the mask is False."""
        of_weights = np.repeat(mask, self._sizes.rows)
        self._indices.keep(of_weights)
        self._values.keep(of_weights)
        self._sizes.keep(mask)
        self._by_token = None

    def scores(self, query: SparseVector, rows: NDArray[np.intp] | None = None) -> FloatArray:
        """Dot products with a query, of all documents or of those in `rows`."""
        if self._by_token is None:
            self._by_token = self._sorted_by_token()
        tokens, documents, values = self._by_token
        scores = np.zeros(len(self._sizes.rows), np.float32)
        starts = np.searchsorted(tokens, query.indices, "left")
        ends = np.searchsorted(tokens, query.indices, "right")
        for start, end, weight in zip(starts, ends, query.values, strict=True):
            scores[documents[start:end]] += weight * values[start:end]
        return scores if rows is None else scores[rows]

    def _sorted_by_token(self) -> tuple[NDArray[np.int32], NDArray[np.int32], FloatArray]:
        """Token, document and value of each weight.

        Not SciPy's CSC, which has a number for each token up to the largest: 16 GB for hashed
        words, whose ids go up to 2**31.
        """
        sizes, tokens = self._sizes.rows, self._indices.rows
        order = np.argsort(tokens, kind="stable")
        documents = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        return tokens[order], documents[order], self._values.rows[order]
