"""What a process holds of an index file in memory, brought up to date by what came since."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.index.sqlite.matrices import DenseMatrix, Growing, SparseMatrix
from langchain_hfembed.index.sqlite.metadata import malformed
from langchain_hfembed.index.sqlite.rows import (
    joined,
    last_removal,
    removed_since,
    sparse_vectors,
    stored_vectors,
)

_ROWS_AT_ONCE = 4096


class LoadedVectors:
    """Ids, dense and sparse vectors of all documents, in the order of their keys.

    Attributes:
        dense: None where the index has no dense view.
        sparse: None where it has no sparse view.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.dense: DenseMatrix | None = None
        self.sparse: SparseMatrix | None = None
        self._keys = Growing(np.int64)
        self._ids: list[str] = []
        self._key_of: dict[str, int] = {}
        self._last_key = 0
        self._last_removal = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Keys of all documents, increasing, shape `(n,)`."""
        return self._keys.rows

    def ids(self, rows: NDArray[np.intp] | None = None) -> list[str]:
        """Ids of the documents in these rows, or of all."""
        return list(self._ids) if rows is None else [self._ids[row] for row in rows]

    def rows(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """Rows of documents by id.

        Raises:
            InvalidInputError: If an id is not in the index.
        """
        try:
            keys = [self._key_of[id_] for id_ in ids]
        except KeyError as error:
            raise InvalidInputError(f"the index has no document {error.args[0]!r}") from error
        return np.searchsorted(self.keys, np.array(keys, np.int64))

    def refresh(self, connection: sqlite3.Connection, properties: Mapping[str, str]) -> None:
        """Take over what has been removed and added since the last time."""
        newest = last_removal(connection)
        removed = removed_since(connection, self._last_removal)
        if len(removed) < newest - self._last_removal:  # compact() has dropped some of them
            self._forget()
        elif len(removed):
            self._remove(removed)
        self._last_removal = newest
        added = connection.execute(
            "SELECT key, id, dense, sparse_indices, sparse_values FROM documents "
            "LEFT JOIN vectors USING (key) WHERE key > ? ORDER BY key",
            (self._last_key,),
        )
        while rows := added.fetchmany(_ROWS_AT_ONCE):
            self._append(rows, properties)

    def _remove(self, keys: NDArray[np.int64]) -> None:
        kept = ~np.isin(self.keys, keys)
        if kept.all():
            return
        for id_ in (self._ids[row] for row in np.flatnonzero(~kept)):
            del self._key_of[id_]
        self._ids = [self._ids[row] for row in np.flatnonzero(kept)]
        for part in (self._keys, self.dense, self.sparse):
            if part is not None:
                part.keep(kept)

    def _append(
        self,
        rows: Sequence[tuple[int, str, bytes | None, bytes | None, bytes | None]],
        properties: Mapping[str, str],
    ) -> None:
        keys, ids, dense, indices, values = zip(*rows, strict=True)
        views = properties["views"].split(", ")
        if ("dense" in views and None in dense) or ("sparse" in views and None in indices):
            raise malformed("documents: some have no vectors")
        if "dense" in views:
            vectors = stored_vectors(joined(dense), properties.get("dense_dim"))
            if len(vectors) != len(keys):
                raise malformed("dense vectors")
            if self.dense is None:
                self.dense = DenseMatrix(vectors.shape[1])
            self.dense.append(vectors)
        if "sparse" in views:
            if self.sparse is None:
                self.sparse = SparseMatrix()
            self.sparse.append(*sparse_vectors(indices, values))
        self._keys.append(np.array(keys, np.int64))
        self._ids.extend(ids)
        self._key_of.update(zip(ids, keys, strict=True))
        self._last_key = keys[-1]
