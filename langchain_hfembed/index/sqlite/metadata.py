"""Metadata in an index file, by value: which documents pass a filter, without reading them all."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.index.filters import (
    Compare,
    Every,
    Filter,
    Leaf,
    Not,
    OneOf,
    leaves,
)

# The primary key is all there is: documents are found by value, and removed by what their metadata
# says. A second index, by document, would hold every value once more.
TABLE = """CREATE TABLE metadata_leaves (
    path BLOB NOT NULL,
    kind TEXT NOT NULL,
    value NOT NULL,
    key INTEGER NOT NULL,
    PRIMARY KEY (path, kind, value, key)
) WITHOUT ROWID"""

_SELECT = "SELECT key FROM metadata_leaves WHERE path = ? AND kind = ?"
_LONGEST = 128  # bytes of a string that are kept; of a longer one, only equality is of interest
Keys = NDArray[np.int64]


def malformed(what: str) -> sqlite3.DatabaseError:
    """What SQLite itself raises about damage, for damage that only we can see."""
    return sqlite3.DatabaseError(f"malformed {what}")


def metadata_of(encoded: str) -> dict[str, Any]:
    """Stored metadata.

    Raises:
        sqlite3.DatabaseError: If it is not JSON.
    """
    try:
        metadata: dict[str, Any] = json.loads(encoded)
    except ValueError as error:
        raise malformed(f"metadata: {error}") from error
    return metadata


def add_leaves(connection: sqlite3.Connection) -> None:
    """Bring a file of layout 1, which had no such table, to layout 2."""
    connection.execute(TABLE)
    for key, metadata in connection.execute("SELECT key, metadata FROM documents"):
        insert_leaves(connection, key, metadata_of(metadata))


def insert_leaves(connection: sqlite3.Connection, key: int, metadata: Mapping[str, Any]) -> None:
    """Note what filters can see of a document."""
    connection.executemany(
        "INSERT OR IGNORE INTO metadata_leaves VALUES (?, ?, ?, ?)",
        ((*_row(leaf), key) for leaf in leaves(metadata)),
    )


def remove_leaves(connection: sqlite3.Connection, key: int, metadata: Mapping[str, Any]) -> None:
    """Forget a document, whose metadata this was."""
    connection.executemany(
        "DELETE FROM metadata_leaves WHERE (path, kind, value, key) = (?, ?, ?, ?)",
        ((*_row(leaf), key) for leaf in leaves(metadata)),
    )


def matching_keys(connection: sqlite3.Connection, filter_: Filter, everything: Keys) -> Keys:
    """Keys of the documents that pass a filter, increasing.

    Args:
        connection: To the index file.
        filter_: The filter.
        everything: Keys of all documents, increasing.
    """
    if isinstance(filter_, OneOf):
        return _union(
            _keys(connection, f"{_SELECT} AND value = ?", _row(leaf)) for leaf in filter_.leaves
        )
    if isinstance(filter_, Compare):
        parameters = (_bytes(filter_.path), "number", filter_.number)
        return _keys(connection, f"{_SELECT} AND value {filter_.operator} ?", parameters)
    if isinstance(filter_, Not):
        inner = matching_keys(connection, filter_.filter, everything)
        return np.setdiff1d(everything, inner, assume_unique=True)
    parts = (matching_keys(connection, part, everything) for part in filter_.filters)
    if isinstance(filter_, Every):
        return reduce(np.intersect1d, parts, everything)
    return _union(parts)


def _keys(connection: sqlite3.Connection, statement: str, parameters: tuple[Any, ...]) -> Keys:
    rows = connection.execute(statement, parameters).fetchall()
    try:
        return np.unique(np.array([key for (key,) in rows], np.int64))  # a list may match twice
    except (TypeError, ValueError) as error:
        raise malformed(f"metadata: {error}") from error


def _union(parts: Iterable[Keys]) -> Keys:
    found = list(parts)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _row(leaf: Leaf) -> tuple[bytes, str, bytes | float]:
    if not isinstance(leaf.value, str):
        return _bytes(leaf.path), leaf.kind, leaf.value
    value = _bytes(leaf.value)
    if len(value) <= _LONGEST:
        return _bytes(leaf.path), leaf.kind, value
    return _bytes(leaf.path), "long string", hashlib.sha256(value).digest()


def _bytes(text: str) -> bytes:
    # Not as text, which can't hold a lone surrogate.
    return text.encode(errors="surrogatepass")
