"""Documents as rows of an index file: arrays to blobs, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.index.sqlite.metadata import (
    insert_leaves,
    malformed,
    metadata_of,
    remove_leaves,
)
from langchain_hfembed.index.sqlite.token_codec import TokenCodec
from langchain_hfembed.pooling import pool_tokens
from langchain_hfembed.scoring import unit_embedding
from langchain_hfembed.vectors import (
    FloatArray,
    HybridEmbedding,
    SparseVector,
    View,
    check_views,
)

_PROPERTIES = {"views", "multi_vector_dtype", "model_name", "fingerprint"}
# Of token vectors, in float32. What fits into the processor's cache would be faster alone, but each
# product waits for BLAS's threads, on a busy machine for long.
_BYTES_AT_ONCE = 8 << 20
_TOKENS_AT_ONCE = 1024  # to decode: what the processor's cache holds
_LONGEST = 1.01  # sum of squares of a vector at length 1, with what float16 rounds


def properties_of(connection: sqlite3.Connection) -> dict[str, str]:
    """What the first batch settled for all later ones; empty before it."""
    properties = dict(connection.execute("SELECT name, value FROM properties").fetchall())
    if not properties:
        return {}
    properties.setdefault("token_pooling", "1")  # files made before have none
    try:
        check_views(properties["views"].split(", "))
        fits = properties.keys() >= _PROPERTIES and int(properties["token_pooling"]) > 0
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise malformed(f"properties {properties}") from error
    if not fits or not all(isinstance(value, str) for value in properties.values()):
        raise malformed(f"properties {properties}")
    return properties


@dataclass(frozen=True)
class Row:
    """A document as the file holds it.

    Attributes:
        document: Id, text, and metadata as JSON.
        vectors: The dense vector, and the sparse one's token ids and weights; None where absent.
        multi_vector: Token vectors; None where absent.
        metadata: As it was given.
    """

    document: tuple[str, str, str]
    vectors: tuple[bytes | None, bytes | None, bytes | None]
    multi_vector: bytes | None
    metadata: Mapping[str, Any]


def row_of(record: IndexRecord, metadata: str, properties: Mapping[str, str]) -> Row:
    """Encode a document, which has the shape of the index; vectors at length 1.

    Args:
        record: The document.
        metadata: Its metadata as JSON.
        properties: Of the index: how it stores token vectors.
    """
    embedding = unit_embedding(record.embedding)
    dense, sparse, tokens = embedding.dense, embedding.sparse, embedding.multi_vector
    codec = codec_of(properties)
    blob = None
    if tokens is not None and codec is not None:
        pooled = pool_tokens(tokens, int(properties["token_pooling"]), record.token_pooling)
        blob = codec.encode(pooled)
    return Row(
        (record.id, record.text, metadata),
        (
            None if dense is None else dense.astype("<f4").tobytes(),
            None if sparse is None else sparse.indices.astype("<i4").tobytes(),
            None if sparse is None else sparse.values.astype("<f4").tobytes(),
        ),
        blob,
        record.metadata,
    )


def insert(connection: sqlite3.Connection, row: Row) -> None:
    """Add a document, whose id is not there."""
    key = connection.execute(
        "INSERT INTO documents (id, text, metadata) VALUES (?, ?, ?)", row.document
    ).lastrowid
    assert key is not None
    connection.execute("INSERT INTO vectors VALUES (?, ?, ?, ?)", (key, *row.vectors))
    if row.multi_vector is not None:
        connection.execute("INSERT INTO multi_vectors VALUES (?, ?)", (key, row.multi_vector))
    insert_leaves(connection, key, row.metadata)


def documents_of(
    connection: sqlite3.Connection, ids: Iterable[str]
) -> list[tuple[int, str, str, str]]:
    """Key, id, text and metadata of the documents with these ids, of those that there are."""
    documents = []
    for id_ in dict.fromkeys(ids):
        # One by one, not by json_each(), which ends a string at its first NUL. As bytes, as a lone
        # surrogate can't be bound as text; no id has one, so that nothing is found.
        documents += connection.execute(
            "SELECT key, id, text, metadata FROM documents WHERE id = CAST(? AS TEXT)",
            (id_.encode(errors="surrogatepass"),),
        ).fetchall()
    if not all(isinstance(value, str) for _, *values in documents for value in values):
        raise malformed("documents")
    return documents


def remove_all(connection: sqlite3.Connection) -> None:
    """Remove all documents, and note it for processes that have them in memory."""
    connection.execute("INSERT INTO removals (key) SELECT key FROM documents")
    for statement in (
        "DELETE FROM metadata_leaves",
        "DELETE FROM documents",
        "DELETE FROM vectors",
        "DELETE FROM multi_vectors",
    ):
        connection.execute(statement)


def remove(connection: sqlite3.Connection, keys: Sequence[int]) -> None:
    """Remove documents, and note it for processes that have them in memory."""
    for key in keys:
        found = connection.execute("SELECT metadata FROM documents WHERE key = ?", (key,))
        for (metadata,) in found:
            remove_leaves(connection, key, metadata_of(metadata))
    for statement in (
        "DELETE FROM documents WHERE key = ?",
        "DELETE FROM vectors WHERE key = ?",
        "DELETE FROM multi_vectors WHERE key = ?",
        "INSERT INTO removals (key) VALUES (?)",
    ):
        connection.executemany(statement, ((key,) for key in keys))


def removed_since(connection: sqlite3.Connection, number: int) -> NDArray[np.int64]:
    """Keys of the documents that were removed after the removal of this number."""
    rows = connection.execute("SELECT key FROM removals WHERE number > ?", (number,)).fetchall()
    try:
        return np.array([key for (key,) in rows], np.int64)
    except (TypeError, ValueError) as error:
        raise malformed(f"removals: {error}") from error


def last_removal(connection: sqlite3.Connection) -> int:
    """How many removals there were, those that compacting has dropped included."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'removals'").fetchone()
    try:
        return int(row[0]) if row else 0
    except (TypeError, ValueError) as error:
        raise malformed(f"removals: {error}") from error


def token_vectors(
    connection: sqlite3.Connection, keys: NDArray[np.int64], properties: Mapping[str, str]
) -> Iterator[tuple[list[int], FloatArray, list[int]]]:
    """Token vectors of documents, some at a time, in the order in which they lie in the file.

    Yields:
        The keys of some documents; their vectors one after the other, shape `(tokens, dim)`, in
        memory that the next ones overwrite; and how many each document has.
    """
    codec = codec_of(properties)
    assert codec is not None
    room = np.empty((max(1, _BYTES_AT_ONCE // (4 * codec.dim)), codec.dim), np.float32)
    found: list[int] = []
    lengths: list[int] = []
    blobs: list[bytes] = []
    start = end = 0  # of the rows in `room` for these blobs
    for key, blob in connection.execute(
        "SELECT key, vectors FROM multi_vectors WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(keys.tolist()),),
    ):
        if not isinstance(blob, bytes) or not blob or len(blob) % codec.bytes_a_token:
            raise malformed("multi-vectors")
        tokens = len(blob) // codec.bytes_a_token
        is_full = end + tokens > len(room)
        if is_full or end - start >= _TOKENS_AT_ONCE:
            codec.decode(blobs, room[start:end])
            blobs, start = [], end
        if is_full:
            if found:
                yield found, room[:end], lengths
            found, lengths, start, end = [], [], 0, 0
            if tokens > len(room):
                room = np.empty((tokens, codec.dim), np.float32)
        found.append(key)
        lengths.append(tokens)
        blobs.append(blob)
        end += tokens
    if found:
        codec.decode(blobs, room[start:end])
        yield found, room[:end], lengths


def codec_of(properties: Mapping[str, str]) -> TokenCodec | None:
    """How token vectors are written; None where the index has none.

    Raises:
        sqlite3.DatabaseError: If that is none of our ways.
    """
    if "multi_vector_dim" not in properties:
        return None
    try:
        return TokenCodec(properties["multi_vector_dtype"], int(properties["multi_vector_dim"]))
    except ValueError as error:
        raise malformed(f"properties: {error}") from error


def stored_vectors(blob: bytes, dim: str | None) -> FloatArray:
    """Stored dense vectors, one or more, shape `(n, dim)`, none of them longer than 1.

    Raises:
        sqlite3.DatabaseError: If the bytes are anything else.
    """
    try:
        vectors = np.frombuffer(blob, "<f4").reshape(-1, int(dim or 0))
    except (TypeError, ValueError) as error:
        raise malformed(f"vectors: {error}") from error
    _require_unit_length(vectors)
    return vectors


def _require_unit_length(vectors: FloatArray) -> None:
    # Not `> _LONGEST`, which is also False for NaN.
    if not len(vectors) or not (np.einsum("ij,ij->i", vectors, vectors) <= _LONGEST).all():
        raise malformed("vectors")


def sparse_vectors(
    indices: Sequence[bytes | None], values: Sequence[bytes | None]
) -> tuple[list[int], NDArray[np.int32], FloatArray]:
    """Sizes, token ids and weights of stored sparse vectors, one after the other.

    Raises:
        sqlite3.DatabaseError: If the bytes are not those of sparse vectors.
    """
    try:
        sizes = [len(blob or b"") // np.dtype(np.int32).itemsize for blob in indices]
        sizes_of_values = [len(blob or b"") // np.dtype(np.float32).itemsize for blob in values]
        tokens = np.frombuffer(joined(indices), "<i4")
        weights = np.frombuffer(joined(values), "<f4")
    except (TypeError, ValueError) as error:
        raise malformed(f"sparse vectors: {error}") from error
    if sizes != sizes_of_values:
        raise malformed("sparse vectors")
    rises = np.append(tokens[1:] > tokens[:-1], True)
    ends = np.cumsum(sizes)
    rises[ends[ends > 0] - 1] = True  # the next document starts again
    if not (rises & (tokens >= 0) & (weights > 0) & np.isfinite(weights)).all():
        raise malformed("sparse vectors")
    return sizes, tokens, weights


def joined(blobs: Iterable[bytes | None]) -> bytes:
    """Blobs one after the other; NULL is empty.

    Raises:
        sqlite3.DatabaseError: If one is no blob.
    """
    try:
        return b"".join(blob or b"" for blob in blobs)
    except TypeError as error:
        raise malformed(f"vectors: {error}") from error


def embeddings_of(
    connection: sqlite3.Connection,
    keys: Sequence[int],
    properties: Mapping[str, str],
    views: Collection[View],
) -> dict[int, HybridEmbedding]:
    """These views of documents, by key."""
    tokens: dict[int, FloatArray] = {}
    if "multi_vector" in views and "multi_vector_dim" in properties:
        for found, flat, lengths in token_vectors(connection, np.array(keys), properties):
            _require_unit_length(flat)
            owned = np.split(flat.copy(), np.cumsum(lengths)[:-1])
            tokens.update(zip(found, owned, strict=True))
    rows = connection.execute(
        "SELECT key, dense, sparse_indices, sparse_values FROM vectors "
        "WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(keys),),
    )
    embeddings = {}
    for key, dense, indices, values in rows:
        embeddings[key] = HybridEmbedding(
            stored_vectors(dense, properties.get("dense_dim"))[0]
            if dense is not None and "dense" in views
            else None,
            SparseVector(*sparse_vectors([indices], [values])[1:])
            if indices is not None and "sparse" in views
            else None,
            tokens.get(key),
        )
    return embeddings
