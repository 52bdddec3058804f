"""The index for more than one machine, or for millions of documents on one: Qdrant."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, get_args
from uuid import UUID

from pydantic import SecretStr

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.index.base import Candidates, IndexModel, IndexRecord, metadata_json
from langchain_hfembed.index.compatibility import (
    check_compression,
    model_in,
    require_model,
    require_query_shape,
    require_same_model,
    require_shape,
)
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.index.qdrant.collection import DOCUMENTS, QdrantCollection
from langchain_hfembed.index.qdrant.payload import (
    DOCUMENT,
    ORDER,
    payload_of,
)
from langchain_hfembed.index.qdrant.plan import Engine, Found, HasId
from langchain_hfembed.index.qdrant.points import (
    batches,
    found_id,
    page_size,
    pages,
    point_of,
    points_of,
    record_of,
    require_tokens_fit,
    wanted_views,
)
from langchain_hfembed.index.qdrant.search import POINTS_AT_ONCE, proposed, scored
from langchain_hfembed.scoring import Scores, unit_embedding
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, View

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

MultiVectorDtype = Literal["float16", "float32"]


class QdrantIndex:
    """Documents and their views in Qdrant: in this process, on a server, or in a cluster.

    Give one of `path`, `url` and `client`. Searches take two round trips: one proposes candidates,
    one scores them all, at full precision, and brings their texts along. The collection is made
    with the first documents. On a server an `upsert` of several requests is no transaction: where
    one fails, those before it are stored; adding the same documents again completes them.
    Threads may share an object, which can't be pickled.

    Args:
        collection_name: Of the collection on the server; `path` has no use for it.
        url: Of a Qdrant server.
        api_key: For `url`. It is in no message, and does not go to any other place.
        prefer_grpc: Whether to speak gRPC to `url`, which takes fewer bytes.
        client: A `QdrantClient`, which stays yours to close.
        path: A folder for Qdrant Edge, the same engine in this process. One object at a time can
            have it open.
        multi_vector_dtype: How token vectors are stored; None for what the index has, float16 in a
            new one.
        token_pooling: About how many token vectors of a document become one; None for what the
            index has, 1 in a new one, which keeps them all.
        exact: Compare a query with all dense vectors, instead of asking the HNSW graph.
        shard_number: Of a new collection on a server; None for its default, likewise below.
        replication_factor: Copies of each shard.
        write_consistency_factor: Copies that must have a write before it is acknowledged.
        quantization_config: Of a new collection's dense vectors, or of its multi-vectors where
            they are alone: an object of `qdrant_client.models`, of `qdrant_edge` with `path`.
        on_disk: Whether dense and sparse vectors of a new collection stay on disk, too.
        timeout: Seconds for a request to `url`.
        max_retries: Attempts after the first one, where a server can't be reached or is busy.
        batch_bytes: About how large a request with documents is.

    Raises:
        InvalidInputError: If not one of `path`, `url` and `client` is given, a value is of no use,
            or `url` has a user and password.
        HybridIndexError: If there is something else at `path`. It is left untouched.
        IndexLockedError: If the folder at `path` is open elsewhere.
        ImportError: If qdrant-client or Qdrant Edge is not installed.
    """

    def __init__(
        self,
        collection_name: str = "hfembed",
        *,
        url: str | None = None,
        api_key: SecretStr | str | None = None,
        prefer_grpc: bool = False,
        client: QdrantClient | None = None,
        path: str | PathLike[str] | None = None,
        multi_vector_dtype: MultiVectorDtype | None = None,
        token_pooling: int | None = None,
        exact: bool = False,
        shard_number: int | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        quantization_config: Any = None,
        on_disk: bool = False,
        timeout: float = 60.0,
        max_retries: int = 5,
        batch_bytes: int = 16_000_000,
    ) -> None:
        asked = check_compression(multi_vector_dtype, get_args(MultiVectorDtype), token_pooling)
        if batch_bytes < 1:
            raise InvalidInputError(f"batch_bytes={batch_bytes} must be 1 or more")
        if max_retries < 0:
            raise InvalidInputError(f"max_retries={max_retries} must be 0 or more")
        if timeout <= 0:
            raise InvalidInputError(f"timeout={timeout} must be above 0 seconds")
        self._exact = exact
        self._batch_bytes = batch_bytes
        self._model: IndexModel | None = None
        self._writing = threading.Lock()
        self._last_order = 0
        cluster = {
            "shard_number": shard_number,
            "replication_factor": replication_factor,
            "write_consistency_factor": write_consistency_factor,
        }
        _require_one_place(
            {"path": path, "url": url, "client": client},
            {"api_key": api_key, "prefer_grpc": prefer_grpc},
            cluster,
        )
        self._engine: Engine
        if path is None:
            from langchain_hfembed.index.qdrant.remote import RemoteEngine, connect

            self._engine = RemoteEngine(
                client or connect(str(url), api_key, prefer_grpc=prefer_grpc, timeout=timeout),
                collection_name,
                cluster,
                max_retries=max_retries,
                owned=client is None,
            )
        else:
            from langchain_hfembed.index.qdrant.edge import EdgeEngine

            self._engine = EdgeEngine(fspath(path))
        self._collection = QdrantCollection(
            self._engine,
            asked,
            quantization=quantization_config,
            on_disk=on_disk,
        )
        if path is not None:  # a server is asked on first use: it may still be starting
            try:
                self._collection.properties()
            except BaseException:
                self.close()
                raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._engine.name!r})"

    def __reduce__(self) -> str:
        raise TypeError(
            f"{self!r} can't be pickled: it holds a connection, and perhaps an API key. Open the "
            "index again where it is needed"
        )

    @property
    def model(self) -> IndexModel | None:
        """Which model the vectors come from; None while that is not known."""
        return model_in(self._collection.properties()) or self._model

    def bind(self, model: IndexModel) -> None:
        """Say which model the vectors and queries come from; see `HybridIndex.bind`."""
        require_model(self._collection.properties(), model, self._engine.name)
        if self._model is not None:
            require_same_model(self._model, model, self._engine.name)
        self._model = model

    def upsert(self, records: Sequence[IndexRecord]) -> None:
        """Store documents; see `HybridIndex.upsert`.

        All of them are checked before the first is sent. With `path` they have survived a
        `kill -9` once this returns.
        """
        last_of_each = {record.id: record for record in records}
        if not last_of_each:
            return
        encoded = [(record, metadata_json(record)) for record in last_of_each.values()]
        # One at a time, so that documents lie in the order in which calls return.
        with self._writing:
            stored = self._collection.properties()
            first = encoded[0][0].embedding
            properties = stored or self._collection.new_properties(first, self._model)
            self._require_fit(properties, last_of_each.values())
            rows = [
                (record, payload_of(record, metadata, order))
                for order, (record, metadata) in enumerate(encoded, self._next_order(len(encoded)))
            ]
            if not stored:
                properties = self._collection.create(properties)
                self._require_fit(properties, last_of_each.values())
            self._collection.index_fields(payload for _, payload in rows)
            pooling = int(properties["token_pooling"])
            points = (point_of(record, payload, pooling) for record, payload in rows)
            for batch in batches(points, self._batch_bytes):
                self._engine.upsert(batch)
            self._engine.flush()

    def delete(self, ids: Sequence[str] | None = None) -> None:
        """Remove documents by id, all of them for None; see `HybridIndex.delete`."""
        if not self._collection.properties():
            return
        if ids is None:
            self._engine.delete(DOCUMENTS)
        else:
            for page in pages(points_of(ids), POINTS_AT_ONCE):
                self._engine.delete(HasId(tuple(page)))
        self._engine.flush()

    def get(self, ids: Sequence[str], *, views: Collection[View] = ()) -> list[IndexRecord]:
        """Documents by id, in the order of the ids; see `HybridIndex.get`."""
        properties = self._collection.properties()
        if not properties:
            return []
        wanted, pooling = wanted_views(properties, views), int(properties["token_pooling"])
        by_id: dict[str, IndexRecord] = {}
        for page in pages(points_of(ids), page_size(wanted)):
            for found in self._engine.retrieve(page, DOCUMENT, wanted):
                record = record_of(found, wanted, pooling)
                by_id[record.id] = record
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def records(self, views: Collection[View] = VIEWS) -> Iterator[IndexRecord]:
        """All documents, in the order of storing; see `HybridIndex.records`.

        One that is stored again meanwhile goes to the end, and may be left out: what comes after
        the last document of the start is not read, or this might never end.
        """
        properties = self._collection.properties()
        if not properties:
            return
        wanted, pooling = wanted_views(properties, views), int(properties["token_pooling"])
        last = self._engine.last(ORDER)
        if last is None:
            return
        size = page_size(wanted)
        start, seen = 0, set[UUID]()
        while True:
            # From the last number on, not after it: two writers may have given the same one.
            page = self._engine.page(ORDER, start, size + len(seen), (*DOCUMENT, ORDER), wanted)
            for found in page:
                if found.id not in seen and found.payload[ORDER] <= last:
                    yield record_of(found, wanted, pooling)
            if len(page) < size + len(seen) or page[-1].payload[ORDER] > last:
                return
            start = page[-1].payload[ORDER]
            seen = {found.id for found in page if found.payload[ORDER] == start}

    def search(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> Candidates:
        """Candidates with their scores and documents, in two round trips; see `HybridIndex.search`.

        What is removed between the two is left out. The texts are those that were scored.
        """
        query = unit_embedding(query)
        candidates = [found.id for found in self._proposed(query, fetch_k, filter_)]
        found, scores = scored(self._engine, query, candidates, DOCUMENT)
        return Candidates(
            [found_id(each) for each in found],
            scores,
            lambda best: [record_of(found[position]) for position in best],
        )

    def candidates(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> list[str]:
        """Ids worth scoring; see `HybridIndex.candidates`."""
        return [found_id(each) for each in self._proposed(unit_embedding(query), fetch_k, filter_)]

    def score(self, query: HybridEmbedding, ids: Sequence[str]) -> Scores:
        """Scores of these documents; see `HybridIndex.score`.

        Raises:
            InvalidInputError: If an id is not in the index.
        """
        wanted = points_of(ids) if self._can_score(query) else []
        found, scores = scored(self._engine, unit_embedding(query), wanted, ("id",))
        positions = {found_id(each): position for position, each in enumerate(found)}
        if missing := [id_ for id_ in ids if id_ not in positions]:
            raise InvalidInputError(
                f"the index {self._engine.name} has no document {missing[0]!r}; upsert() it first"
            )
        rows = [positions[id_] for id_ in ids]
        return Scores(**{view: values[rows] for view, values in scores.present()})

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Nothing: Qdrant has no states to hold on to.

        What is stored or removed meanwhile is seen by the next call.
        """
        yield

    def count(self) -> int:
        """How many documents there are."""
        return self._engine.count(DOCUMENTS) if self._collection.properties() else 0

    def close(self) -> None:
        """Let go of the folder or the connection, for others to open; it can be repeated."""
        self._engine.close()

    def __enter__(self) -> QdrantIndex:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _next_order(self, count: int) -> int:
        """The first of so many numbers, above all that this object gave before.

        Microseconds, so that other writers' numbers are above, too. Qdrant compares numbers as
        64-bit floats, which would round nanoseconds.
        """
        first = max(time.time_ns() // 1000, self._last_order + 1)
        self._last_order = first + count - 1
        return first

    def _require_fit(self, properties: Mapping[str, str], records: Collection[IndexRecord]) -> None:
        """Raise unless the model and all documents fit an index with these properties."""
        if self._model is not None:  # another process may have settled them since bind()
            require_model(properties, self._model, self._engine.name)
        pooling = int(properties["token_pooling"])
        for record in records:
            require_shape(properties, record.embedding, self._engine.name)
            require_tokens_fit(record, pooling, self._engine.multi_vector_limit)

    def _can_score(self, query: HybridEmbedding) -> bool:
        """Whether there are documents to score; raises if there are those of another model."""
        properties = self._collection.properties()
        if not properties:
            return False
        if self._model is not None:  # another process may have settled them since bind()
            require_model(properties, self._model, self._engine.name)
        require_query_shape(properties, query, self._engine.name)
        return True

    def _proposed(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None
    ) -> list[Found]:
        if not self._can_score(query) or fetch_k < 1:
            return []
        condition = None if filter_ is None else self._collection.condition_of(filter_)
        return proposed(self._engine, query, fetch_k, condition, exact=self._exact)


def _require_one_place(
    places: Mapping[str, object], for_url: Mapping[str, object], for_servers: Mapping[str, object]
) -> None:
    """Raise InvalidInputError for arguments that don't go together; one would be ignored."""
    given = [name for name, value in places.items() if value is not None]
    if len(given) != 1:
        raise InvalidInputError(
            f"QdrantIndex takes one of path, url and client; got {' and '.join(given) or 'none'}. "
            "path='folder' needs no server"
        )
    useless = dict(for_url) if given != ["url"] else {}
    if given == ["path"]:
        useless |= for_servers
    if named := [name for name, value in useless.items() if value]:
        raise InvalidInputError(f"{named[0]} has no meaning with {given[0]}; leave it out")
