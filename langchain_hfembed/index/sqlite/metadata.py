"""Metadata in an index file, by value: which documents pass a filter, without reading them all."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import orjson
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

_SELECT = "SELECT json_group_array(key) FROM metadata_leaves WHERE path = ? AND kind = ?"
_LONGEST = 128  # bytes of a string that are kept; of a longer one, only equality is of interest
Keys = NDArray[np.int64]
Mask = NDArray[np.bool_]


def malformed(what: str) -> sqlite3.DatabaseError:
    """What SQLite itself raises about damage, for damage that only we can see."""
    return sqlite3.DatabaseError(f"malformed {what}")


def metadata_of(encoded: str) -> dict[str, Any]:
    """Stored metadata.

    Raises:
        sqlite3.DatabaseError: If it is no JSON object.
    """
    try:
        metadata = json.loads(encoded)
    except (TypeError, ValueError, RecursionError) as error:
        raise malformed(f"metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise malformed("metadata: no JSON object")
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


def matching(connection: sqlite3.Connection, filter_: Filter, keys: Keys) -> Mask:
    """Which documents pass a filter.

    Args:
        connection: To the index file.
        filter_: The filter.
        keys: Keys of all documents, increasing, shape `(n,)`.

    Returns:
        A mask over the keys, shape `(n,)`.
    """
    if isinstance(filter_, OneOf):
        equal = f"{_SELECT} AND value = ?"
        masks = (_mask(connection, equal, _row(leaf), keys) for leaf in filter_.leaves)
        return reduce(np.logical_or, masks, np.zeros(len(keys), bool))
    if isinstance(filter_, Compare):
        parameters = (_bytes(filter_.path), "number", filter_.number)
        return _mask(connection, f"{_SELECT} AND value {filter_.operator} ?", parameters, keys)
    if isinstance(filter_, Not):
        return ~matching(connection, filter_.filter, keys)
    parts = (matching(connection, part, keys) for part in filter_.filters)
    if isinstance(filter_, Every):
        return reduce(np.logical_and, parts, np.ones(len(keys), bool))
    return reduce(np.logical_or, parts, np.zeros(len(keys), bool))


def _mask(
    connection: sqlite3.Connection, statement: str, parameters: tuple[Any, ...], keys: Keys
) -> Mask:
    # One string of all keys is read three times as fast as a row for each.
    (encoded,) = connection.execute(statement, parameters).fetchone()
    try:
        found = np.array(orjson.loads(encoded), np.int64)
        rows = np.searchsorted(keys, found)
        mask = np.zeros(len(keys) + 1, bool)
        mask[rows] = True
        mask = mask[:-1]
        # A key that no document has, in a damaged file, may have hit another one's row.
        return mask & np.isin(keys, found) if mask.sum() != len(found) else mask
    except (TypeError, ValueError) as error:
        raise malformed(f"metadata: {error}") from error


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
