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
_DEAD_SHARE = 0.1  # of rows whose document was removed, at most


class LoadedVectors:
    """Ids, dense and sparse vectors of all documents, in rows in the order of their keys.

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
        self._alive = Growing(np.bool_)
        self._dead = 0
        self._ids: list[str] = []
        self._key_of: dict[str, int] = {}
        self._last_key = 0
        self._last_removal = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Keys of all rows, increasing, shape `(n,)`."""
        return self._keys.rows

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows are those of documents that have not been removed, shape `(n,)`."""
        return self._alive.rows

    def ids(self, rows: NDArray[np.intp]) -> list[str]:
        """Ids of the documents in these rows."""
        return [self._ids[row] for row in rows]

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
        if self._last_key:  # else there is nothing to remove
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
        rows = np.flatnonzero(np.isin(self.keys, keys) & self.alive)
        for row in rows:
            del self._key_of[self._ids[row]]
        self.alive[rows] = False
        self._dead += len(rows)
        # To move all rows up for each one that is removed would make the next search slow.
        if self._dead > _DEAD_SHARE * len(self):
            self._thin_out()

    def _thin_out(self) -> None:
        alive = self.alive.copy()
        self._ids = [self._ids[row] for row in np.flatnonzero(alive)]
        for part in (self._keys, self._alive, self.dense, self.sparse):
            if part is not None:
                part.keep(alive)
        self._dead = 0

    def _append(
        self,
        rows: Sequence[tuple[int, str, bytes | None, bytes | None, bytes | None]],
        properties: Mapping[str, str],
    ) -> None:
        keys, ids, dense, indices, values = zip(*rows, strict=True)
        if not all(isinstance(id_, str) for id_ in ids):
            raise malformed("ids")
        if not properties:
            raise malformed("properties: there are none")
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
        self._alive.append(np.ones(len(keys), bool))
        self._ids.extend(ids)
        self._key_of.update(zip(ids, keys, strict=True))
        self._last_key = keys[-1]
