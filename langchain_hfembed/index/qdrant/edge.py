"""The plan in Qdrant Edge's words: the engine of a Qdrant server, in this process, in a folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_hfembed.errors import (
    EmbeddingError,
    HybridIndexError,
    IndexLockedError,
    InvalidInputError,
)
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
    import qdrant_edge as edge
except ImportError as error:
    raise ImportError(
        f"QdrantIndex(path=...) needs Qdrant Edge ({error}): "
        'pip install "langchain-hfembed[qdrant-edge]"'
    ) from error

_CONFIG = "edge_config.json"
_UNFINISHED = ".hfembed-new-"  # how folders are called in which an index is being made
# Points that are compared one by one, in a few milliseconds, before graphs are built for them.
_UNOPTIMIZED = 50_000


class EdgeEngine:
    """A collection in a folder, which one object at a time has open.

    Edge holds Python's global lock while it works, so that threads which take turns lose nothing.

    Args:
        path: The folder. It is made, whole or not at all, with the first point.

    Raises:
        HybridIndexError: If there is something else at the path. It is left untouched.
        IndexLockedError: If the folder is open elsewhere.
    """

    multi_vector_limit: int | None = None

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser().absolute()
        self.name = str(self._path)
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._shard: edge.EdgeShard | None = None
        self._is_closed = False
        self._unoptimized = 0
        self.exists()

    def require_open(self) -> None:
        """Raise HybridIndexError after `close()`."""
        with self._use():
            pass

    def exists(self) -> bool:
        """Whether there is a collection; opens it."""
        with self._use():
            if self._shard is None and (self._path / _CONFIG).exists():
                self._shard = edge.EdgeShard.load(str(self._path))
                config = json.loads((self._path / _CONFIG).read_text(encoding="utf-8"))
                self._unoptimized = _unindexed(self._shard.info(), config)
            elif self._shard is None and self._path.exists():
                _require_empty_folder(self._path)
            return self._shard is not None

    def create(self, layout: Layout, fields: Mapping[str, str], first: Point) -> None:
        """Make the index in a folder of its own, and move it to its place when it is complete."""
        with self._use():
            if self._shard is not None:
                raise HybridIndexError(
                    f"the folder {self.name} holds an Edge index of another program. It was not "
                    "changed; give another path"
                )
            # In a folder that is there already: it may be a mount point, or a link.
            above = self._path if self._path.exists() else self._path.parent
            above.mkdir(parents=True, exist_ok=True)
            made = above / f"{_UNFINISHED}{secrets.token_hex(4)}"
            try:
                shard = edge.EdgeShard.create(str(made), self._config(layout))
                for key, kind in fields.items():
                    shard.update(edge.UpdateOperation.create_field_index(key, _KINDS[kind]))
                shard.update(edge.UpdateOperation.upsert_points([_point(first)]))
                shard.flush()
                shard.close()
                if above == self._path:
                    # The file that says that there is an index comes last.
                    for entry in sorted(
                        made.iterdir(), key=lambda it: (it.name == _CONFIG, it.name)
                    ):
                        entry.rename(above / entry.name)
                else:
                    made.rename(self._path)
            except OSError as error:  # another process was faster
                if not (self._path / _CONFIG).exists():
                    raise
                raise self._locked() from error
            finally:
                shutil.rmtree(made, ignore_errors=True)
            _sync_folder(above)
            self.exists()

    def fields(self) -> set[str]:
        """Keys of the payload that have an index."""
        with self._open() as shard:
            return set(shard.info().payload_schema)

    def index_field(self, key: str, kind: str) -> bool:
        """Index a key of the payload."""
        with self._open() as shard:
            shard.update(edge.UpdateOperation.create_field_index(key, _KINDS[kind]))
            return True

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points."""
        with self._open() as shard:
            shard.update(edge.UpdateOperation.upsert_points([*map(_point, points)]))
            self._unoptimized += len(points)

    def flush(self) -> None:
        """Write everything to the disk; build graphs when enough has come together.

        Which takes seconds, and larger segments with every time, so it waits for more every time.
        """
        with self._open() as shard:
            shard.flush()
            if self._unoptimized >= max(_UNOPTIMIZED, shard.info().points_count // 4):
                self._unoptimized = 0
                shard.optimize()

    def delete(self, condition: Condition) -> None:
        """Remove the points that pass."""
        with self._open() as shard:
            passing = edge.Filter(must=[_condition(condition)])
            shard.update(edge.UpdateOperation.delete_points_by_filter(passing))

    def query_batch(self, queries: Sequence[Query]) -> list[list[Found]]:
        """Answer several queries, planned together."""
        with self._open() as shard:
            answers = shard.query_batch(edge.QueryBatchRequest([*map(_request, queries)]))
            return [
                [Found(_uuid(point.id), point.payload or {}, point.score) for point in answer]
                for answer in answers
            ]

    def retrieve(
        self, ids: Sequence[UUID], payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points by id."""
        with self._open() as shard:
            # Edge's own payload selector: None would bring all of it.
            found = shard.retrieve([*ids], edge.PayloadSelector.Include([*payload]), [*views])
            return [*map(_found, found)]

    def page(
        self, key: str, start: int, limit: int, payload: Sequence[str], views: Sequence[View]
    ) -> list[Found]:
        """Points from this number at a key of the payload on, in its order."""
        with self._open() as shard:
            found, _ = shard.scroll(
                edge.ScrollRequest(
                    limit=limit,
                    order_by=edge.OrderBy(key, start_from=start),
                    with_payload=edge.PayloadSelector.Include([*payload]),
                    with_vector=[*views],
                )
            )
            return [*map(_found, found)]

    def last(self, key: str) -> int | None:
        """The highest number at a key of the payload."""
        with self._open() as shard:
            found, _ = shard.scroll(
                edge.ScrollRequest(
                    limit=1,
                    order_by=edge.OrderBy(key, edge.Direction.Desc),
                    with_payload=edge.PayloadSelector.Include([key]),
                )
            )
            return found[0].payload[key] if found and found[0].payload else None

    def count(self, condition: Condition) -> int:
        """How many points pass."""
        with self._open() as shard:
            passing = edge.Filter(must=[_condition(condition)])
            return shard.count(edge.CountRequest(exact=True, filter=passing))

    def close(self) -> None:
        """Let the folder go, for another to open."""
        with self._lock:
            if self._shard is not None and self._process == os.getpid():
                self._shard.close()
            self._shard, self._is_closed = None, True

    @contextmanager
    def _open(self) -> Iterator[edge.EdgeShard]:
        with self._use():
            assert self._shard is not None
            yield self._shard

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise HybridIndexError(f"the index {self.name} is closed; open it again to use it")
            if self._process != os.getpid():
                raise HybridIndexError(
                    f"the index {self.name} was opened in another process, from which this one was "
                    "forked; Edge can't share a folder so. Close it there, and open it here"
                )
            try:
                yield
            except (EmbeddingError, KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            # Edge raises bare Exception, and PanicException, which is none, for damaged files.
            except BaseException as error:
                raise self._translated(error) from error

    def _translated(self, error: BaseException) -> HybridIndexError:
        if "WouldBlock" in str(error):
            return self._locked()
        if isinstance(error, OSError):
            return HybridIndexError(
                f"the index's folder {self.name} can't be used: {error.strerror}. Give another path"
            )
        return HybridIndexError(
            f"Qdrant Edge failed on the index {self.name}: {error}. If the disk is not full, "
            "restore a copy of the folder, or index the documents again into a new one"
        )

    def _locked(self) -> IndexLockedError:
        return IndexLockedError(
            f"the index {self.name} is open elsewhere, in this process or another one, and Edge "
            "lets one at a time have a folder. Close it there, or serve several processes from a "
            "Qdrant server: QdrantIndex(url=...)"
        )

    def _config(self, layout: Layout) -> edge.EdgeConfig:
        where = edge.Memory.Cold if layout.on_disk else None
        vectors = {}
        _require_quantization(layout.quantization)
        if layout.dense_dim is not None:
            vectors["dense"] = edge.EdgeVectorParams(
                layout.dense_dim,
                edge.Distance.Dot,
                quantization_config=layout.quantization_of("dense"),
                memory=where,
            )
        if layout.multi_vector_dim is not None:
            vectors["multi_vector"] = edge.EdgeVectorParams(
                layout.multi_vector_dim,
                edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                datatype=_DTYPES[layout.multi_vector_dtype],
                quantization_config=layout.quantization_of("multi_vector"),
                # No graph, which would compare all tokens with all tokens.
                hnsw_config=edge.HnswIndexConfig(0, 100, 10_000),
                memory=edge.Memory.Cold,
            )
        sparse = {"sparse": edge.EdgeSparseVectorParams(memory=where)} if layout.has_sparse else {}
        return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)


def _require_quantization(quantization: object) -> None:
    if quantization is not None and not isinstance(quantization, _QUANTIZATIONS):
        names = ", ".join(kind.__name__ for kind in _QUANTIZATIONS)
        raise InvalidInputError(
            f"quantization_config is a {type(quantization).__module__}."
            f"{type(quantization).__name__}; with path it must be one of qdrant_edge: {names}"
        )


def _unindexed(info: edge.ShardInfo, config: Mapping[str, Any]) -> int:
    """About how many points are in no graph yet.

    Edge adds up the vectors of all names: those of dense and multi-vectors in segments that have
    been optimised, those of the sparse ones in all segments.
    """
    names = len(config.get("vectors") or {})
    if not names:
        return 0
    sparse = info.points_count * len(config.get("sparse_vectors") or {})
    return max(0, info.points_count - max(0, info.indexed_vectors_count - sparse) // names)


def _sync_folder(path: Path) -> None:
    """Have a renaming survive a loss of power, which Windows sees to itself."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network drives can't for folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _require_empty_folder(path: Path) -> None:
    # A process that was killed while it made an index leaves what is as good as nothing.
    if not path.is_dir() or any(not it.name.startswith(_UNFINISHED) for it in path.iterdir()):
        raise HybridIndexError(
            f"{path} is there and is no complete Edge index. It was not touched; give the path of "
            "a new folder, or of an empty one"
        )


_KINDS: dict[str, Any] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    # The order of documents, which is read by range; no search has it in a filter.
    "integer": edge.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False),
}
_QUANTIZATIONS = (
    edge.ScalarQuantizationConfig,
    edge.ProductQuantizationConfig,
    edge.BinaryQuantizationConfig,
    edge.TurboQuantQuantizationConfig,
)
_DTYPES = {
    "float16": edge.VectorStorageDatatype.Float16,
    "float32": edge.VectorStorageDatatype.Float32,
}
_CONDITIONS: dict[type[Any], Callable[[Any], Any]] = {
    HasKeyword: lambda it: edge.FieldCondition(it.key, match=edge.MatchAny([*it.values])),
    InRange: lambda it: edge.FieldCondition(
        it.key, range=edge.RangeFloat(gt=it.gt, gte=it.gte, lt=it.lt, lte=it.lte)
    ),
    HasId: lambda it: edge.HasIdCondition(set(it.ids)),
    AllOf: lambda it: edge.Filter(must=[*map(_condition, it.conditions)]),
    AnyOf: lambda it: edge.Filter(should=[*map(_condition, it.conditions)]),
    NoneOf: lambda it: edge.Filter(must_not=[*map(_condition, it.conditions)]),
}


def _condition(condition: Condition) -> Any:
    return _CONDITIONS[type(condition)](condition)


def _request(query: Query) -> edge.QueryRequest:
    nearest = None
    if query.vector is not None:
        nearest = edge.Query.Nearest(_vector(query.vector), using=query.view)
    ignored = edge.QuantizationSearchParams(ignore=True) if query.exact else None
    return edge.QueryRequest(
        limit=query.limit,
        query=nearest,
        filter=None if query.condition is None else edge.Filter(must=[_condition(query.condition)]),
        with_payload=edge.PayloadSelector.Include([*query.payload]) if query.payload else False,
        params=edge.SearchParams(exact=query.exact, quantization=ignored),
    )


def _point(point: Point) -> edge.Point:
    vectors: dict[str, Any] = {
        view: _vector(getattr(point.vectors, view)) for view in point.vectors.views
    }
    return edge.Point(point.id, vectors, dict(point.payload))


def _vector(vector: Any) -> Any:
    if isinstance(vector, SparseVector):
        return edge.SparseVector(vector.indices.tolist(), vector.values.tolist())
    return vector.tolist()  # Edge reads lists faster than arrays


def _found(record: Any) -> Found:
    return Found(_uuid(record.id), record.payload or {}, vectors=record.vector or {})


def _uuid(id_: Any) -> UUID:
    assert isinstance(id_, UUID)  # ours are, and no others are found
    return id_
