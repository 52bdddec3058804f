"""Documents to points and back, a batch or a page at a time. No I/O."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import numpy as np

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.index.qdrant.payload import point_id
from langchain_hfembed.index.qdrant.plan import Found, Point
from langchain_hfembed.pooling import pool_tokens
from langchain_hfembed.scoring import unit_embedding
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, SparseVector, View

T = TypeVar("T")

_BATCH_POINTS = 64
_BYTES_A_NUMBER = 20  # in JSON; gRPC takes 4
_PAGE_OF_TEXTS, _PAGE = 1_000, 64
_PAGE_OF_TOKENS = 8  # the token vectors of one long text are some MB of JSON


def point_of(record: IndexRecord, payload: Mapping[str, Any], token_pooling: int) -> Point:
    """The point of a document, whose id is text; vectors at length 1."""
    embedding = unit_embedding(record.embedding)
    if embedding.multi_vector is not None and token_pooling > 1:
        tokens = pool_tokens(embedding.multi_vector, token_pooling, record.token_pooling)
        embedding = HybridEmbedding(embedding.dense, embedding.sparse, tokens)
    id_ = point_id(record.id)
    assert id_ is not None
    return Point(id_, payload, embedding)


def points_of(ids: Iterable[str]) -> list[UUID]:
    """The points of these documents, each once, without ids that no document can have."""
    points = (point_id(id_) for id_ in ids)
    return list(dict.fromkeys(point for point in points if point is not None))


def batches(points: Iterable[Point], batch_bytes: int) -> Iterator[list[Point]]:
    """Points in groups for one request each, by their size in JSON, at least one in a group."""
    batch: list[Point] = []
    size = 0
    for point in points:
        more = _size(point)
        if batch and (size + more > batch_bytes or len(batch) == _BATCH_POINTS):
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += more
    if batch:
        yield batch


def _size(point: Point) -> int:
    vectors = point.vectors
    dense, sparse, tokens = vectors.dense, vectors.sparse, vectors.multi_vector
    numbers = 0 if sparse is None else 2 * len(sparse)
    numbers += sum(int(each.size) for each in (dense, tokens) if each is not None)
    return _BYTES_A_NUMBER * numbers + len(json.dumps(point.payload))


def wanted_views(properties: Mapping[str, str], views: Collection[View]) -> tuple[View, ...]:
    """Those of the views that the index has."""
    stored = properties["views"].split(", ")
    return tuple(view for view in VIEWS if view in views and view in stored)


def page_size(views: Collection[View]) -> int:
    """How many documents to read at once."""
    if not views:
        return _PAGE_OF_TEXTS
    return _PAGE_OF_TOKENS if "multi_vector" in views else _PAGE


def require_tokens_fit(record: IndexRecord, token_pooling: int, limit: int | None) -> None:
    """Raise InvalidInputError if a document has more token vectors than a server takes.

    Args:
        record: The document, not pooled yet: this tells before the first request.
        token_pooling: About how many of its token vectors become one.
        limit: A multi-vector must have fewer numbers than this; None for no limit.
    """
    tokens = record.embedding.multi_vector
    if tokens is None or limit is None:
        return
    count, dim = tokens.shape
    most = (limit - 1) // dim
    if max(1, count // max(1, token_pooling // record.token_pooling)) > most:
        fitting = record.token_pooling * (count // (most + 1) + 1)
        raise InvalidInputError(
            f"document {record.id!r} has {count:,} token vectors of {dim:,} numbers; with "
            f"token_pooling={token_pooling} a Qdrant server takes {most * token_pooling:,} at "
            f"most. Split the text, or make a new index with token_pooling={fitting}. Nothing of "
            "its batch was stored"
        )


def pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Items so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def found_id(found: Found) -> str:
    """The caller's id of a document."""
    return str(found.payload["id"])


def record_of(found: Found, views: Collection[View] = (), token_pooling: int = 1) -> IndexRecord:
    """A document with these views, all of which it was asked for with."""
    dense, sparse, tokens = (found.vectors.get(view) if view in views else None for view in VIEWS)
    return IndexRecord(
        found_id(found),
        found.payload["text"],
        json.loads(found.payload["metadata"]),
        HybridEmbedding(
            None if dense is None else np.array(dense, np.float32),
            _sparse(sparse) if "sparse" in views else None,
            None if tokens is None else np.array(tokens, np.float32),
        ),
        token_pooling,
    )


def _sparse(vector: Any) -> SparseVector:
    if vector is None:
        return SparseVector.from_dict({})
    return SparseVector.from_dict(dict(zip(vector.indices, vector.values, strict=True)))
