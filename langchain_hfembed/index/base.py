"""What an index is: it stores views, proposes candidates and scores them."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.index.filters import Filter
from langchain_hfembed.scoring import Scores
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, View

_BATCH_BYTES = 256 << 20  # of token vectors: 8 texts of BGE-M3's 8,192 tokens


@dataclass(frozen=True)
class IndexModel:
    """Which model an index holds the vectors of.

    Attributes:
        name: For messages.
        fingerprint: Differs where the model would give other vectors.
        views: The views that are stored of each document.
    """

    name: str
    fingerprint: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class IndexRecord:
    """A document in an index.

    Attributes:
        id: Its id, unique in the index.
        text: Its text.
        metadata: JSON: what comes back equals what was stored.
        embedding: Its views; an empty embedding where they were not asked for.
        token_pooling: About how many token vectors have become one of its multi-vector; an index
            does not pool them again.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    embedding: HybridEmbedding
    token_pooling: int = 1


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an index proposes for a query.

    Attributes:
        ids: Their ids.
        scores: Their scores in every view of the query, in the order of the ids.
        records: Called with positions in `ids`, gives the documents there, without their views.
            To be called within the `snapshot()` of the search.
    """

    ids: list[str]
    scores: Scores
    records: Callable[[Sequence[int]], list[IndexRecord]]


class HybridIndex(Protocol):
    """Stores documents with their views, proposes candidates for a query, and scores them."""

    @property
    def model(self) -> IndexModel | None:
        """Which model the vectors come from; None while that is not known."""
        ...

    def bind(self, model: IndexModel) -> None:
        """Say which model the vectors and queries come from.

        Raises:
            IndexMismatchError: If the index holds vectors of another model or other views, or
                this object serves another model already.
        """
        ...

    def upsert(self, records: Sequence[IndexRecord]) -> None:
        """Store documents, replacing those of the same ids, all of them or none.

        The last of several records with one id wins.

        Raises:
            IndexMismatchError: If a record has other views or dimensions than the index.
            IndexLockedError: If another writer was busy for too long.
            InvalidInputError: If metadata is not JSON.
        """
        ...

    def delete(self, ids: Sequence[str] | None = None) -> None:
        """Remove documents by id, all of them for None; ids that are not there do no harm."""
        ...

    def get(self, ids: Sequence[str], *, views: Collection[View] = ()) -> list[IndexRecord]:
        """Documents by id, in the order of the ids, without those that are not there.

        Their embeddings have these views, and none unless asked for.
        """
        ...

    def records(self, views: Collection[View] = VIEWS) -> Iterator[IndexRecord]:
        """All documents with these views, a few in memory at a time.

        Of one state within `snapshot()`, where the index has states.
        """
        ...

    def search(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> Candidates:
        """`candidates`, their `score`, and their documents, out of one state of the index."""
        ...

    def candidates(
        self, query: HybridEmbedding, fetch_k: int, filter_: Filter | None = None
    ) -> list[str]:
        """Ids worth scoring: the best `fetch_k` of the dense and of the sparse view, united.

        Of the documents that pass the filter, if there is one. The multi-vector view proposes only
        where it is alone. All ids where `fetch_k` is at or above their number. In the order in
        which the documents were stored.
        """
        ...

    def score(self, query: HybridEmbedding, ids: Sequence[str]) -> Scores:
        """Scores of these documents in every view of the query, shape `(len(ids),)`."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Within it, all calls of this thread see one and the same state of the index."""
        ...

    def count(self) -> int:
        """How many documents there are."""
        ...

    def close(self) -> None:
        """Release the index; it can be repeated. Any other call then raises."""
        ...


def batched(records: Iterable[IndexRecord], size: int) -> Iterator[list[IndexRecord]]:
    """Records to store at once: `size` at most, fewer with 256 MB of token vectors.

    Raises:
        InvalidInputError: If the size is below 1.
    """
    if size < 1:
        raise InvalidInputError(f"batch_size={size} must be 1 or more")
    batch: list[IndexRecord] = []
    room = _BATCH_BYTES
    for record in records:
        batch.append(record)
        tokens = record.embedding.multi_vector
        room -= 0 if tokens is None else tokens.nbytes
        if len(batch) >= size or room <= 0:
            yield batch
            batch, room = [], _BATCH_BYTES
    if batch:
        yield batch


def metadata_json(record: IndexRecord) -> str:
    """The record's metadata as JSON that reads back as the same.

    Raises:
        InvalidInputError: If it does not; the message names the document and the key.
    """
    try:
        encoded = json.dumps(record.metadata, allow_nan=False)
        if json.loads(encoded) == record.metadata:
            return encoded
    except (TypeError, ValueError, RecursionError):
        pass
    for key, value in record.metadata.items():
        try:
            same = json.loads(json.dumps({key: value}, allow_nan=False)) == {key: value}
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            raise InvalidInputError(
                f"metadata of document {record.id!r}: {key!r}: {_shown(value)} does not come back "
                f"the same from JSON. Turn {type(value).__name__} into a string, number, list or "
                "dict with string keys first"
            )
    raise InvalidInputError(
        f"metadata of document {record.id!r} is not JSON: {_shown(record.metadata)}"
    )


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python turns into text
        return f"a huge {type(value).__name__}"
