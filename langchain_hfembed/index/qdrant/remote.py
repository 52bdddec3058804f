"""The plan in qdrant-client's words: a Qdrant server, a cluster, or the client's local mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from pydantic import SecretStr, ValidationError

from langchain_hfembed.errors import HybridIndexError, InvalidInputError
from langchain_hfembed.index.qdrant.plan import (
    AllOf,
    AnyOf,
    Condition,
    Found,
    HasId,
    HasKeyword,
    InRange,
    Layout,
    NoneOf,
    Point,
    Query,
)
from langchain_hfembed.vectors import SparseVector, View

try:
    from qdrant_client import QdrantClient, models
    from qdrant_client.local.qdrant_local import QdrantLocal
except ImportError as error:
    raise ImportError(
        f"QdrantIndex(url=... or client=...) needs qdrant-client ({error}): "
        'pip install "langchain-hfembed[qdrant]"'
    ) from error

# After qdrant-client, whose absence it would report in other words.
from langchain_hfembed.index.qdrant.failures import Server

T = TypeVar("T")

_MULTI_VECTOR_LIMIT = 1024 * 1024  # a server's constant, which no setting changes


def connect(
    url: str, api_key: SecretStr | str | None, *, prefer_grpc: bool, timeout: float
) -> QdrantClient:
    """A client for a server, which is not asked for anything yet."""
    if "@" in url:  # not parsed: a password can be anything
        raise InvalidInputError(
            "url holds an '@', so perhaps a user and a password, which Qdrant has no use for. "
            "Leave them out, and pass api_key"
        )
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    try:
        return QdrantClient(
            url=url,
            api_key=key,
            prefer_grpc=prefer_grpc,
            timeout=math.ceil(timeout),
            # It would ask in a thread, and warn instead of raising.
            check_compatibility=False,
        )
    except ValueError as error:
        raise InvalidInputError(
            f"url={url!r} is no server's URL, such as 'https://qdrant.example.com:6333'"
        ) from error


class RemoteEngine:
    """A collection on a server.

    Args:
        client: Speaks to it.
        collection: The collection's name.
        settings: Of `create_collection()`: shards, replicas.
        max_retries: Attempts after the first one.
        owned: Whether `close()` closes the client, too.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        settings: dict[str, Any],
        *,
        max_retries: int,
        owned: bool,
    ) -> None:
        self._client = client
        self._collection = collection
        self._settings = settings
        self._owned = owned
        if not isinstance(client, QdrantClient):
            raise InvalidInputError(
                f"client is a {type(client).__name__}; it must be a qdrant_client.QdrantClient"
            )
        inner = client._client
        # Local mode warns about what it has no use for.
        self._is_local = isinstance(inner, QdrantLocal)
        url = "local mode" if self._is_local else str(inner.rest_uri)  # type: ignore[attr-defined]
        self._server = Server(url, collection, max_retries, is_local=self._is_local)
        self.multi_vector_limit = None if self._is_local else _MULTI_VECTOR_LIMIT
        self.name = f"{collection} at {self._server.url}"
        self._is_closed = False

    def require_open(self) -> None:
        """Raise HybridIndexError after `close()`."""
        if self._is_closed:
            raise HybridIndexError(f"the index {self.name} is closed; open it again to use it")

    def exists(self) -> bool:
        """Whether there is a collection."""
        return self._send(lambda: self._client.collection_exists(self._collection))

    def create(self, layout: Layout, fields: Mapping[str, str], first: Point) -> None:
        """Make the collection; take one that is just as it would be made."""
        vectors, sparse = _vectors_config(layout), _sparse_config(layout)
        if not self.exists():
            try:
                self._create(vectors, sparse)
            except HybridIndexError:
                # Sent twice after a lost reply, or another process was faster.
                if not self.exists():
                    raise
        made = self._send(lambda: self._client.get_collection(self._collection)).config.params
        if _shapes(made.vectors, made.sparse_vectors) != _shapes(vectors, sparse):
            raise HybridIndexError(
                f"the collection {self.name} was made with other vectors. It was not changed; give "
                "another collection_name"
            )
        for key, kind in fields.items():
            self.index_field(key, kind)
        # The first writer's stays, in the order of one replica for all writers.
        self._send(
            lambda: self._client.upsert(
                self._collection,
                [_point(first)],
                wait=True,
                ordering=models.WriteOrdering.STRONG,
                update_mode=models.UpdateMode.INSERT_ONLY,
            )
        )

    def fields(self) -> set[str] | None:
        """Keys of the payload that have an index; None in local mode, which has none."""
        if self._is_local:
            return None
        info = self._send(lambda: self._client.get_collection(self._collection))
        return set(info.payload_schema)

    def index_field(self, key: str, kind: str) -> bool:
        """Index a key of the payload; False in local mode, or where the server allows no more."""
        if self._is_local:
            return False
        schema = _KINDS[kind]
        try:
            self._send(
                lambda: self._client.create_payload_index(self._collection, key, schema, wait=True)
            )
        except HybridIndexError as error:
            if "maximum number of payload ind" not in str(error):
                raise
            return False
        return True

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points, and wait until they are."""
        structs = [*map(_point, points)]
        self._send(lambda: self._client.upsert(self._collection, structs, wait=True))

    def flush(self) -> None:
        """Nothing: a server has what it acknowledges in its write-ahead log."""
        self.require_open()

    def delete(self, condition: Condition) -> None:
        """Remove the points that pass."""
        selector = models.FilterSelector(filter=_filter(condition))
        self._send(lambda: self._client.delete(self._collection, selector, wait=True))

    def query_batch(self, queries: Sequence[Query]) -> list[list[Found]]:
        """Answer several queries in one request."""
        requests = [self._request(query) for query in queries]
        answers = self._send(lambda: self._client.query_batch_points(self._collection, requests))
        return [
            [
                Found(UUID(str(point.id)), point.payload or {}, point.score)
                for point in answer.points
            ]
            for answer in answers
        ]

    def retrieve(
        self, ids: Sequence[UUID], payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points by id."""
        found = self._send(
            lambda: self._client.retrieve(
                self._collection,
                [*map(str, ids)],
                with_payload=[*payload],
                with_vectors=[*views] or False,
            )
        )
        return [*map(_found, found)]

    def page(
        self, key: str, start: int, limit: int, payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points from this number at a key of the payload on, in its order."""
        found, _ = self._send(
            lambda: self._client.scroll(
                self._collection,
                limit=limit,
                order_by=models.OrderBy(key=key, start_from=start),
                with_payload=[*payload],
                with_vectors=[*views] or False,
            )
        )
        return [*map(_found, found)]

    def last(self, key: str) -> int | None:
        """The highest number at a key of the payload."""
        found, _ = self._send(
            lambda: self._client.scroll(
                self._collection,
                limit=1,
                order_by=models.OrderBy(key=key, direction=models.Direction.DESC),
                with_payload=[key],
                with_vectors=False,
            )
        )
        return found[0].payload[key] if found and found[0].payload else None

    def count(self, condition: Condition) -> int:
        """How many points pass."""
        passing = _filter(condition)
        counted = self._send(
            lambda: self._client.count(self._collection, count_filter=passing, exact=True)
        )
        return counted.count

    def close(self) -> None:
        """Close the client, unless it was the caller's."""
        if self._owned and not self._is_closed:
            self._client.close()
        self._is_closed = True

    def _send(self, request: Callable[[], T]) -> T:
        self.require_open()
        return self._server.ask(request)

    def _create(
        self,
        vectors: dict[str, models.VectorParams],
        sparse: dict[str, models.SparseVectorParams] | None,
    ) -> None:
        self._send(
            lambda: self._client.create_collection(
                self._collection,
                vectors_config=vectors,
                sparse_vectors_config=sparse,
                on_disk_payload=True,
                **self._settings,
            )
        )

    def _request(self, query: Query) -> models.QueryRequest:
        ignored = models.QuantizationSearchParams(ignore=True) if query.exact else None
        params = models.SearchParams(exact=query.exact, quantization=ignored)
        return models.QueryRequest(
            query=None if query.vector is None else _vector(query.vector),
            using=query.view,
            filter=None if query.condition is None else _filter(query.condition),
            limit=query.limit,
            params=None if self._is_local else params,
            with_payload=[*query.payload] or False,
        )


def _vectors_config(layout: Layout) -> dict[str, models.VectorParams]:
    vectors = {}
    try:
        if layout.dense_dim is not None:
            vectors["dense"] = models.VectorParams(
                size=layout.dense_dim,
                distance=models.Distance.DOT,
                quantization_config=layout.quantization_of("dense"),
                on_disk=layout.on_disk,
            )
        if layout.multi_vector_dim is not None:
            vectors["multi_vector"] = models.VectorParams(
                size=layout.multi_vector_dim,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                datatype=models.Datatype(layout.multi_vector_dtype),
                quantization_config=layout.quantization_of("multi_vector"),
                # No graph, which would compare all tokens with all tokens.
                hnsw_config=models.HnswConfigDiff(m=0),
                on_disk=True,
            )
    except ValidationError as error:
        raise InvalidInputError(
            f"quantization_config is a {type(layout.quantization).__name__}; with url or client it "
            "must be one of qdrant_client.models, such as ScalarQuantization"
        ) from error
    return vectors


def _sparse_config(layout: Layout) -> dict[str, models.SparseVectorParams] | None:
    if not layout.has_sparse:
        return None
    return {
        "sparse": models.SparseVectorParams(index=models.SparseIndexParams(on_disk=layout.on_disk))
    }


def _shapes(vectors: Any, sparse: Any) -> dict[str, tuple[Any, ...]]:
    """What must be the same for two collections to hold the same vectors and score them alike."""
    named = vectors if isinstance(vectors, dict) else {"": vectors} if vectors else {}
    shapes: dict[str, tuple[Any, ...]] = {
        name: (
            params.size,
            params.distance,
            params.datatype or models.Datatype.FLOAT32,
            params.multivector_config and params.multivector_config.comparator,
        )
        for name, params in named.items()
    }
    for name, params in (sparse or {}).items():
        shapes[name] = (params.modifier or models.Modifier.NONE,)
    return shapes


_KINDS: dict[str, Any] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "float": models.PayloadSchemaType.FLOAT,
    # The order of documents, which is read by range; no search has it in a filter.
    "integer": models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=False, range=True, enable_hnsw=False
    ),
}
_CONDITIONS: dict[type[Any], Callable[[Any], Any]] = {
    HasKeyword: lambda it: models.FieldCondition(
        key=it.key, match=models.MatchAny(any=[*it.values])
    ),
    InRange: lambda it: models.FieldCondition(
        key=it.key, range=models.Range(gt=it.gt, gte=it.gte, lt=it.lt, lte=it.lte)
    ),
    HasId: lambda it: models.HasIdCondition(has_id=[*map(str, it.ids)]),
    AllOf: lambda it: models.Filter(must=[*map(_condition, it.conditions)]),
    AnyOf: lambda it: models.Filter(should=[*map(_condition, it.conditions)]),
    NoneOf: lambda it: models.Filter(must_not=[*map(_condition, it.conditions)]),
}


def _condition(condition: Condition) -> Any:
    return _CONDITIONS[type(condition)](condition)


def _filter(condition: Condition) -> models.Filter:
    return models.Filter(must=[_condition(condition)])


def _point(point: Point) -> models.PointStruct:
    vectors: dict[str, Any] = {
        view: _vector(getattr(point.vectors, view)) for view in point.vectors.views
    }
    return models.PointStruct(id=str(point.id), vector=vectors, payload=dict(point.payload))


def _vector(vector: Any) -> Any:
    if isinstance(vector, SparseVector):
        return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


def _found(record: models.Record) -> Found:
    vectors = record.vector if isinstance(record.vector, dict) else {}
    return Found(UUID(str(record.id)), record.payload or {}, vectors=vectors)
