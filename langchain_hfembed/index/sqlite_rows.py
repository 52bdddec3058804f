"""Documents as rows of an index file: arrays to blobs, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.scoring import unit_embedding
from langchain_hfembed.vectors import FloatArray, HybridEmbedding, SparseVector


def properties_of(connection: sqlite3.Connection) -> dict[str, str]:
    """What the first batch settled for all later ones; empty before it."""
    return dict(connection.execute("SELECT name, value FROM properties").fetchall())


def insert(
    connection: sqlite3.Connection, record: IndexRecord, metadata: str, dtype: np.dtype[Any]
) -> None:
    """Add a document, whose id is not there.

    Args:
        connection: To the index file.
        record: The document. Its vectors are stored at length 1.
        metadata: Its metadata as JSON.
        dtype: Of the stored token vectors.
    """
    embedding = unit_embedding(record.embedding)
    dense, sparse, tokens = embedding.dense, embedding.sparse, embedding.multi_vector
    key = connection.execute(
        "INSERT INTO documents (id, text, metadata) VALUES (?, ?, ?)",
        (record.id, record.text, metadata),
    ).lastrowid
    connection.execute(
        "INSERT INTO vectors VALUES (?, ?, ?, ?)",
        (
            key,
            None if dense is None else dense.tobytes(),
            None if sparse is None else sparse.indices.tobytes(),
            None if sparse is None else sparse.values.tobytes(),
        ),
    )
    if tokens is not None:
        blob = tokens.astype(dtype).tobytes()
        connection.execute("INSERT INTO multi_vectors VALUES (?, ?)", (key, blob))


def keys_of(connection: sqlite3.Connection, ids: Sequence[str]) -> list[int]:
    """Keys of the documents with these ids, of those that there are."""
    rows = connection.execute(
        "SELECT key FROM documents WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )
    return [key for (key,) in rows]


def remove(connection: sqlite3.Connection, keys: Sequence[int]) -> None:
    """Remove documents, and note it for processes that have them in memory."""
    for statement in (
        "DELETE FROM documents WHERE key = ?",
        "DELETE FROM vectors WHERE key = ?",
        "DELETE FROM multi_vectors WHERE key = ?",
        "INSERT INTO removals (key) VALUES (?)",
    ):
        connection.executemany(statement, ((key,) for key in keys))


def multi_vectors(
    connection: sqlite3.Connection, keys: Sequence[int], properties: Mapping[str, str]
) -> Iterator[tuple[int, FloatArray]]:
    """Keys and token vectors, shape `(tokens, dim)`, in the order in which they lie in the file."""
    dtype = np.dtype(properties["multi_vector_dtype"])
    dim = int(properties.get("multi_vector_dim", 0))
    for key, blob in connection.execute(
        "SELECT key, vectors FROM multi_vectors WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(keys),),
    ):
        yield key, np.frombuffer(blob, dtype).reshape(-1, dim).astype(np.float32)


def embeddings_of(
    connection: sqlite3.Connection, keys: Sequence[int], properties: Mapping[str, str]
) -> dict[int, HybridEmbedding]:
    """The views of documents, by key."""
    if not keys:
        return {}
    tokens = dict(multi_vectors(connection, keys, properties))
    return {
        key: HybridEmbedding(
            None if dense is None else np.frombuffer(dense, np.float32),
            None
            if indices is None
            else SparseVector(np.frombuffer(indices, np.int32), np.frombuffer(values, np.float32)),
            tokens.get(key),
        )
        for key, dense, indices, values in connection.execute(
            "SELECT key, dense, sparse_indices, sparse_values FROM vectors "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(keys),),
        )
    }
