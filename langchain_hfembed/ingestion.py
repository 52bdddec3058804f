"""Documents into a store, again and again: only what is new or has changed is embedded.

An index is its own record of what was done: a document is unchanged if it is stored with the same
text and the same metadata. So an interrupted run goes on where it stopped, on any index, and
without a file beside it that could say something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

from langchain_core.documents import Document

from langchain_hfembed.corpus import Piece, piece_id
from langchain_hfembed.errors import EmbeddingError, InvalidInputError
from langchain_hfembed.hits import document_of
from langchain_hfembed.index.base import IndexModel, IndexRecord
from langchain_hfembed.vectorstore import HybridVectorStore

T = TypeVar("T")
Done = Literal["indexed", "skipped", "deleted"]
_LOOKED_UP = 256  # documents that are compared with the index at once


@dataclass(frozen=True)
class Step:
    """What an ingestion has just done.

    Attributes:
        what: With some documents.
        documents: How many they are.
        size: How much of the corpus they stand for.
    """

    what: Done
    documents: int
    size: float


@dataclass(frozen=True)
class Gone:
    """Pieces of files that are no longer there.

    Attributes:
        ids: Their ids.
        matching: How many pieces of that folder there are, with those.
    """

    ids: list[str]
    matching: int


class Ingestion:
    """Brings the documents of a store up to date.

    Args:
        store: The store.
        batch_size: Documents to embed and store at once. An interruption loses at most so many.
        progress: Called after each step.

    Raises:
        InvalidInputError: If `batch_size` is below 1.
        IndexMismatchError: If the index was made by another model.

    Attributes:
        counts: How many documents were `indexed`, which is embedded and stored; `skipped`, since
            they were there, unchanged, or came twice, when the last one is kept; and `deleted`.
    """

    def __init__(
        self,
        store: HybridVectorStore,
        *,
        batch_size: int = 32,
        progress: Callable[[Step], object] | None = None,
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size={batch_size} must be 1 or more")
        self.counts: dict[str, int] = dict.fromkeys(get_args(Done), 0)
        self._store = store
        self._batch_size = batch_size
        self._progress = progress
        # Also where nothing has changed: another model's index is an error, not up to date.
        encoder = store.encoder
        store.index.bind(IndexModel(encoder.model_name, encoder.fingerprint, encoder.views))

    def add(self, pieces: Iterable[Piece]) -> None:
        """Store those documents that are new or have changed.

        Args:
            pieces: Documents with ids; some hundreds are read ahead.

        Raises:
            EmbeddingError: If a batch fails; those before it are stored.
        """
        waiting: dict[str, Piece] = {}
        for window in _slices(pieces, _LOOKED_UP):
            ids = [str(piece.document.id) for piece in window]
            stored = {record.id: document_of(record) for record in self._store.index.get(ids)}
            for id_, piece in zip(ids, window, strict=True):
                if id_ in waiting:  # the same id twice: the last one wins, as in an index
                    self._skip(waiting.pop(id_))
                if _is_same(stored.get(id_), piece.document):
                    self._skip(piece)
                    continue
                waiting[id_] = piece
                if len(waiting) >= self._batch_size:
                    self._embed(list(waiting.values()))
                    stored |= {id_: done.document for id_, done in waiting.items()}
                    waiting.clear()
        if waiting:
            self._embed(list(waiting.values()))

    def delete_tails(self, lengths: Mapping[str, int]) -> None:
        """Delete the pieces that files no longer have, which have become shorter.

        Interrupted, it can be called again: the last pieces go first, since those that are left
        are found by counting on from the first one.

        Args:
            lengths: How many pieces each source has now.
        """
        for some in _slices(lengths.items(), _LOOKED_UP):
            following, tails = dict(some), list[str]()
            while following:
                sources = {piece_id(source, n): source for source, n in following.items()}
                found = self._store.index.get(list(sources))
                tails += [record.id for record in found if _source_of(record)]
                following = {
                    sources[record.id]: following[sources[record.id]] + 1 for record in found
                }
            self._delete(tails[::-1])

    def find_gone(self, name: str, sources: Collection[str]) -> Gone:
        """Look for the pieces of files that are no longer there; this reads the whole index.

        Only what `TextFiles` has made of a folder of this name, never other documents. An index
        can't tell two folders of one name apart.

        Args:
            name: The folder's name, with which its sources start.
            sources: The sources of the files that are there.

        Raises:
            InvalidInputError: If the name is empty, since every source starts with that.
        """
        if not name:
            raise InvalidInputError("name='' is every folder's; give the name of the one to prune")
        pieces = {
            record.id: source
            for record in self._store.index.records(())
            if (source := _source_of(record)) is not None and source.startswith(f"{name}/")
        }
        gone = [id_ for id_, source in pieces.items() if source not in sources]
        return Gone(gone, len(pieces))

    def prune(self, gone: Gone) -> None:
        """Delete what `find_gone` has found."""
        self._delete(gone.ids)

    def _skip(self, piece: Piece) -> None:
        self._report(Step("skipped", 1, piece.size))

    def _embed(self, pieces: list[Piece]) -> None:
        documents = [piece.document for piece in pieces]
        try:
            self._store.add_documents(documents, batch_size=len(documents))
        except EmbeddingError as error:
            if error.indices:
                ids = ", ".join(repr(documents[i].id) for i in error.indices[:5])
                error.args = (f"document {ids}: {error}",)
            raise
        self._report(Step("indexed", len(pieces), sum(piece.size for piece in pieces)))

    def _delete(self, ids: list[str]) -> None:
        for batch in _slices(ids, _LOOKED_UP):
            self._store.delete(batch)
            self._report(Step("deleted", len(batch), 0))

    def _report(self, step: Step) -> None:
        self.counts[step.what] += step.documents
        if self._progress is not None:
            self._progress(step)


def _is_same(stored: Document | None, document: Document) -> bool:
    return (
        stored is not None
        and stored.page_content == document.page_content
        and stored.metadata == document.metadata
        # To Python true equals 1, to a filter it does not.
        and _json(stored.metadata) == _json(document.metadata)
    )


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True)


def _source_of(record: IndexRecord) -> str | None:
    """The source of a document that is a piece of a text file; None for any other."""
    source, chunk = record.metadata.get("source"), record.metadata.get("chunk")
    if isinstance(source, str) and isinstance(chunk, int) and record.id == piece_id(source, chunk):
        return source
    return None


def _slices(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
