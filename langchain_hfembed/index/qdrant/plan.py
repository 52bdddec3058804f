"""What is asked of Qdrant, in neither of its two clients' words: plain dataclasses. No I/O.

`remote` says them to a server, `edge` to the engine in this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from langchain_hfembed.vectors import FloatArray, HybridEmbedding, SparseVector, View


@dataclass(frozen=True)
class HasKeyword:
    """The list of strings at a key of the payload has one of these."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class InRange:
    """One of the numbers at a key of the payload lies between these; None for no limit."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True)
class HasId:
    """The point is one of these; of none, never."""

    ids: tuple[UUID, ...]


@dataclass(frozen=True)
class AllOf:
    """All of these hold; there is at least one."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """One of these holds; there is at least one."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class NoneOf:
    """None of these holds."""

    conditions: tuple[Condition, ...]


Condition = HasKeyword | InRange | HasId | AllOf | AnyOf | NoneOf


@dataclass(frozen=True, eq=False)
class Query:
    """One query of a batch.

    Attributes:
        limit: How many points, at most.
        view: Which vectors to compare; None for any points that pass.
        vector: What to compare them with.
        condition: What points must pass.
        payload: Which keys of the payload to bring along.
        exact: Whether to compare all points, at full precision, instead of asking an index.
    """

    limit: int
    view: View | None = None
    vector: FloatArray | SparseVector | None = None
    condition: Condition | None = None
    payload: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Point:
    """A point to store: a document, or the properties of the index."""

    id: UUID
    payload: Mapping[str, Any]
    vectors: HybridEmbedding = field(default_factory=HybridEmbedding)


@dataclass(frozen=True, eq=False)
class Found:
    """A point that Qdrant returned; without a score where none was asked for."""

    id: UUID
    payload: Mapping[str, Any]
    score: float = 0.0
    vectors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How a collection is made.

    Attributes:
        dense_dim: None for an index without dense vectors.
        has_sparse: Whether there are sparse vectors.
        multi_vector_dim: None for an index without multi-vectors.
        multi_vector_dtype: `"float16"` or `"float32"`.
        quantization: The client's own configuration, for the vectors that propose candidates.
        on_disk: Whether dense and sparse vectors stay on disk, as multi-vectors always do.
    """

    dense_dim: int | None
    has_sparse: bool
    multi_vector_dim: int | None
    multi_vector_dtype: str
    quantization: Any = None
    on_disk: bool = False

    def quantization_of(self, view: View) -> Any:
        """Of the dense vectors; of multi-vectors only where they are alone.

        Elsewhere these are read at full precision, for candidates, and would only take more room.
        """
        proposes = "dense" if self.dense_dim is not None else "multi_vector"
        return self.quantization if view == proposes else None


class Engine(Protocol):
    """One collection of points, on a server or in this process.

    Attributes:
        name: For messages.
        multi_vector_limit: A multi-vector must have fewer numbers than this; None for no limit.
    """

    name: str
    multi_vector_limit: int | None

    def require_open(self) -> None:
        """Raise HybridIndexError after `close()`."""
        ...

    def exists(self) -> bool:
        """Whether there is a collection."""
        ...

    def create(self, layout: Layout, fields: Mapping[str, str], first: Point) -> None:
        """Make the collection, with these keys of the payload indexed, and then this point in it.

        Takes one that is there, if it was made like this. Keeps the point if it is there.

        Raises:
            HybridIndexError: If there is a collection that was made otherwise.
        """
        ...

    def fields(self) -> set[str] | None:
        """Keys of the payload that have an index; None where there are no such indexes."""
        ...

    def index_field(self, key: str, kind: str) -> bool:
        """Index a key of the payload; `kind` is `"keyword"`, `"float"` or `"integer"`.

        Returns:
            Whether it has one now. It has none where the server allows no more.
        """
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points in one request, replacing those of the same ids."""
        ...

    def flush(self) -> None:
        """Have what was stored and removed survive whatever comes."""
        ...

    def delete(self, condition: Condition) -> None:
        """Remove the points that pass."""
        ...

    def query_batch(self, queries: Sequence[Query]) -> list[list[Found]]:
        """Answer several queries in one request."""
        ...

    def retrieve(
        self, ids: Sequence[UUID], payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points by id, those that there are, in any order."""
        ...

    def page(
        self, key: str, start: int, limit: int, payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points from this number at a key of the payload on, in its order."""
        ...

    def last(self, key: str) -> int | None:
        """The highest number at a key of the payload; None if there is none."""
        ...

    def count(self, condition: Condition) -> int:
        """How many points pass, counted exactly."""
        ...

    def close(self) -> None:
        """Release it; it can be repeated."""
        ...
