"""The default index: one SQLite file, searched exactly, for one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.index.base import Candidates, IndexModel, IndexRecord, metadata_json
from langchain_hfembed.index.compatibility import (
    check_compression,
    model_in,
    new_properties,
    require_compression,
    require_model,
    require_query_shape,
    require_same_model,
    require_shape,
)
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.index.sqlite.file import SQLiteFile
from langchain_hfembed.index.sqlite.loaded import LoadedVectors
from langchain_hfembed.index.sqlite.metadata import malformed, matching, metadata_of
from langchain_hfembed.index.sqlite.rows import (
    Row,
    documents_of,
    embeddings_of,
    insert,
    properties_of,
    remove,
    remove_all,
    row_of,
    token_vectors,
)
from langchain_hfembed.index.sqlite.token_codec import MultiVectorDtype
from langchain_hfembed.scoring import Scores, mean_maxsims, top_k, unit_embedding
from langchain_hfembed.vectors import VIEWS, FloatArray, HybridEmbedding, View

_MOST = 1.01  # a cosine, with what float16 rounds
# What records() holds at a time, at most: documents, and bytes of their stored token vectors.
_PAGE, _PAGE_BYTES = 64, 32 << 20


class SQLiteIndex:
    """Documents and their views in one file, for one machine and some hundred thousand documents.

    Dense and sparse vectors are also held in memory and searched exactly; multi-vectors stay in
    the file and are read for candidates. Each `upsert` is one transaction. Several processes may
    read while one writes; they see each committed batch at their next search. Objects can be
    shared between threads, whose searches and writes take turns, but not across a fork. Nothing in
    the file is pickled.

    Args:
        path: The file, made on first use with its folder, or `":memory:"`.
        multi_vector_dtype: How token vectors are stored; None for what the file has, float16 in
            a new one, which halves its size and changes scores by about 1e-4. int8 halves it again,
            and changes them by about 1e-3.
        token_pooling: About how many token vectors of a document become one, the nearest ones
            (arXiv:2409.14683); None for what the file has, 1 in a new one, which keeps them all.
        busy_timeout: Seconds to wait while another process writes.

    Raises:
        HybridIndexError: If the file is no index, is damaged, or has another
            `multi_vector_dtype` or `token_pooling`. It is left untouched.
        InvalidInputError: If there is no such `multi_vector_dtype` or `token_pooling`.
    """

    def __init__(
        self,
        path: str | PathLike[str] = ":memory:",
        *,
        multi_vector_dtype: MultiVectorDtype | None = None,
        token_pooling: int | None = None,
        busy_timeout: float = 30.0,
    ) -> None:
        dtypes = get_args(MultiVectorDtype)
        self._asked = check_compression(multi_vector_dtype, dtypes, token_pooling)
        self._file = SQLiteFile(fspath(path), busy_timeout)
        self._model: IndexModel | None = None
        self._loaded = LoadedVectors()
        try:
            with self._file.transaction() as connection:
                require_compression(properties_of(connection), self._asked, self._file.path)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._file.path!r})"

    @property
    def model(self) -> IndexModel | None:
        """Which model the vectors come from; None while that is not known."""
        with self._file.transaction() as connection:
            return model_in(properties_of(connection)) or self._model

    def bind(self, model: IndexModel) -> None:
        """Say which model the vectors and queries come from; see `HybridIndex.bind`."""
        with self._file.transaction() as connection:
            require_model(properties_of(connection), model, self._file.path)
            if self._model is not None:
                require_same_model(self._model, model, self._file.path)
            self._model = model

    def upsert(self, records: Sequence[IndexRecord]) -> None:
        """Store documents, all of them or none; see `HybridIndex.upsert`."""
        last_of_each = {record.id: record for record in records}
        if not last_of_each:
            return
        documents = [(record, metadata_json(record)) for record in last_of_each.values()]
        first = documents[0][0].embedding
        with self._file.transaction() as connection:
            properties = properties_of(connection) or self._new_properties(first)
        # Before the transaction, within which others wait: pooling takes its time.
        rows = self._rows(documents, properties)
        with self._file.transaction("IMMEDIATE") as connection:
            settled = self._settle(connection, first)
            if settled != properties:  # by another process, just now
                rows = self._rows(documents, settled)
            remove(connection, [key for key, *_ in documents_of(connection, last_of_each)])
            for row in rows:
                insert(connection, row)

    def delete(self, ids: Sequence[str] | None = None) -> None:
        """Remove documents by id, all of them for None; see `HybridIndex.delete`."""
        with self._file.transaction("IMMEDIATE") as connection:
            if ids is None:
                remove_all(connection)
            else:
                remove(connection, [key for key, *_ in documents_of(connection, ids)])

    def get(self, ids: Sequence[str], *, views: Collection[View] = ()) -> list[IndexRecord]:
        """Documents by id, in the order of the ids; see `HybridIndex.get`."""
        with self._file.transaction() as connection:
            properties = properties_of(connection)
            documents = documents_of(connection, ids)
            keys = [key for key, *_ in documents] if views else []
            embeddings = embeddings_of(connection, keys, properties, views)
            nothing, pooling = HybridEmbedding(), int(properties.get("token_pooling", "1"))
            by_id = {
                id_: IndexRecord(
                    id_, text, metadata_of(metadata), embeddings.get(key, nothing), pooling
                )
                for key, id_, text, metadata in documents
            }
        return [by_id[id_] for id_ in ids if id_ in by_id]

    def records(self, views: Collection[View] = VIEWS) -> Iterator[IndexRecord]:
        """All documents, in the order of storing; see `HybridIndex.records`.

        Each that is there at the start and still there when its turn comes, as it is then.
        """
        with self._file.transaction() as connection:
            sizes = connection.execute(
                "SELECT id, COALESCE(length(vectors), 0) FROM documents "
                "LEFT JOIN multi_vectors USING (key) ORDER BY key"
            ).fetchall()
        page: list[str] = []
        room = _PAGE_BYTES
        for id_, size in sizes:
            page.append(id_)
            room -= size
            if len(page) == _PAGE or room < 0:
                yield from self.get(page, views=views)
                page, room = [], _PAGE_BYTES
        yield from self.get(page, views=views)

    def search(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> Candidates:
        """Candidates with their scores and documents; see `HybridIndex.search`."""
        with self._reading(query) as reading:
            rows = reading.candidates(fetch_k, filter_)
            ids, scores = reading.loaded.ids(rows), reading.scores(rows)
        return Candidates(ids, scores, lambda best: self.get([ids[position] for position in best]))

    def candidates(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> list[str]:
        """Ids worth scoring; see `HybridIndex.candidates`."""
        with self._reading(query) as reading:
            return reading.loaded.ids(reading.candidates(fetch_k, filter_))

    def score(self, query: HybridEmbedding, ids: Sequence[str]) -> Scores:
        """Scores of these documents; see `HybridIndex.score`.

        Raises:
            InvalidInputError: If an id is not in the index.
        """
        with self._reading(query) as reading:
            return reading.scores(reading.loaded.rows(ids))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within it, all calls of this thread see one state; see `HybridIndex.snapshot`."""
        with self._file.transaction():
            yield

    def count(self) -> int:
        """How many documents there are."""
        with self._file.transaction() as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM documents").fetchone()
            return int(count)

    def compact(self) -> None:
        """Give the space of deleted and replaced documents back to the disk.

        It rewrites the file, and needs as much free space meanwhile, twice: in the folder for
        temporary files (`SQLITE_TMPDIR`), and beside the file. Other processes go on reading;
        interrupted, it leaves everything as it was.

        Raises:
            IndexLockedError: If another writer, or a reader of an older state, was busy for too
                long.
            HybridIndexError: If a disk is full.
        """
        with self._file.transaction("IMMEDIATE") as connection:
            connection.execute("DELETE FROM removals")
        self._file.compact()

    def close(self) -> None:
        """Close the file, which is then the only one left; it can be repeated."""
        self._file.close()
        self._loaded = LoadedVectors()  # a thread that still searches keeps its own

    def __enter__(self) -> SQLiteIndex:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def _reading(self, query: HybridEmbedding) -> Iterator[_Reading]:
        with self._file.transaction() as connection:
            properties = properties_of(connection)
            if properties:
                if self._model is not None:
                    require_model(properties, self._model, self._file.path)
                require_query_shape(properties, query, self._file.path)
            try:
                self._loaded.refresh(connection, properties)
            except BaseException:  # Ctrl-C too: half of a batch would shift all rows after it
                self._loaded = LoadedVectors()
                raise
            yield _Reading(connection, properties, self._loaded, unit_embedding(query))

    def _settle(self, connection: sqlite3.Connection, embedding: HybridEmbedding) -> dict[str, str]:
        """The properties of the index; the first batch decides them."""
        properties = properties_of(connection)
        if properties:  # another process may have settled them since this object was made
            if self._model is not None:
                require_model(properties, self._model, self._file.path)
            require_compression(properties, self._asked, self._file.path)
            return properties
        properties = self._new_properties(embedding)
        connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
        return properties

    def _new_properties(self, embedding: HybridEmbedding) -> dict[str, str]:
        return new_properties(embedding, self._model, self._asked, self._file.path)

    def _rows(
        self, documents: Sequence[tuple[IndexRecord, str]], properties: Mapping[str, str]
    ) -> list[Row]:
        """Documents, with their metadata as JSON, as an index with these properties holds them."""
        for record, _ in documents:
            require_shape(properties, record.embedding, self._file.path)
        return [row_of(record, metadata, properties) for record, metadata in documents]


@dataclass(frozen=True, eq=False)
class _Reading:
    """One query against one state of the index; scores of all documents, or of those in `rows`."""

    connection: sqlite3.Connection
    properties: Mapping[str, str]
    loaded: LoadedVectors
    query: HybridEmbedding

    def candidates(self, fetch_k: int, filter_: Filter | None) -> NDArray[np.intp]:
        """Rows of the documents worth scoring, increasing."""
        allowed = self.allowed(filter_)
        if fetch_k >= len(allowed):
            return allowed
        proposed: list[NDArray[np.intp]] = []
        if self.query.dense is not None:
            proposed.append(allowed[top_k(self._of(self.dense(), allowed), fetch_k)])
        if self.query.sparse is not None:
            matching = allowed[self._of(self._sparse, allowed) > 0]
            proposed.append(matching[top_k(self._sparse[matching], fetch_k)])
        if self.query.views == ("multi_vector",):
            proposed.append(allowed[top_k(self.multi_vector(allowed), fetch_k)])
        return np.unique(np.concatenate(proposed)) if proposed else np.zeros(0, np.intp)

    def scores(self, rows: NDArray[np.intp]) -> Scores:
        """Scores of the documents in these rows, in every view of the query."""
        if not len(rows):  # an empty index has neither matrices nor properties
            return Scores(**dict.fromkeys(self.query.views, np.zeros(0, np.float32)))
        return Scores(
            None if self.query.dense is None else self.dense(rows),
            None if self.query.sparse is None else self.sparse(rows),
            None if self.query.multi_vector is None else self.multi_vector(rows),
        )

    def allowed(self, filter_: Filter | None) -> NDArray[np.intp]:
        """Rows of the documents that pass a filter."""
        alive = self.loaded.alive
        if filter_ is None:
            return np.flatnonzero(alive)
        return np.flatnonzero(alive & matching(self.connection, filter_, self.loaded.keys))

    def dense(self, rows: NDArray[np.intp] | None = None) -> FloatArray:
        assert self.loaded.dense is not None
        assert self.query.dense is not None
        return self.loaded.dense.scores(self.query.dense, rows)

    def sparse(self, rows: NDArray[np.intp]) -> FloatArray:
        return self._sparse[rows]

    @cached_property
    def _sparse(self) -> FloatArray:
        """Of all documents; those of a few take as long."""
        assert self.loaded.sparse is not None
        assert self.query.sparse is not None
        return self.loaded.sparse.scores(self.query.sparse)

    def _of(self, scores: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
        return scores if len(rows) == len(self.loaded) else scores[rows]

    def multi_vector(self, rows: NDArray[np.intp] | None = None) -> FloatArray:
        assert self.query.multi_vector is not None
        keys = self.loaded.keys if rows is None else self.loaded.keys[rows]
        scores: dict[int, float] = {}
        for found, tokens, lengths in token_vectors(self.connection, keys, self.properties):
            maxsims = mean_maxsims(self.query.multi_vector, tokens, lengths)
            if not (np.abs(maxsims) <= _MOST).all():  # False for NaN, too
                raise malformed("multi-vectors")
            scores.update(zip(found, maxsims.tolist(), strict=True))
        if missing := set(keys.tolist()) - scores.keys():
            raise malformed(f"documents: {len(missing)} have no multi-vector")
        return np.array([scores[key] for key in keys.tolist()], np.float32)
