"""A LangChain vector store that searches by every view of its encoder and fuses the scores."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, overload

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_hfembed.embeddings.base import HybridEncoder, check_text, check_texts
from langchain_hfembed.embeddings.dense import as_encoder
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.explain import Explanation, explain
from langchain_hfembed.fusion import Fusion, WeightedSum
from langchain_hfembed.hits import Hit, document_of, find
from langchain_hfembed.index.base import (
    Candidates,
    HybridIndex,
    IndexModel,
    IndexRecord,
    batched,
    metadata_json,
)
from langchain_hfembed.index.filters import Filter, parse_filter
from langchain_hfembed.index.sqlite.index import SQLiteIndex
from langchain_hfembed.vectors import HybridEmbedding, View

_QUERIES_AT_ONCE = 1024
_COSINE = WeightedSum(dense=1, sparse=0, multi_vector=0, normalization=None)


class HybridVectorStore(VectorStore):
    """Stores documents with all views of an encoder, and fuses their scores at each search.

    Args:
        embedding: A hybrid encoder such as `BGEM3Embeddings`, or any LangChain `Embeddings`,
            which is taken as dense only.
        index: Where the views are stored; None for a `SQLiteIndex` at `path`.
        path: File of the default index; None keeps it in memory.
        fusion: How the scores become one: `WeightedSum`, `ReciprocalRankFusion`, or any function
            of `Scores` that returns an array of shape `(n,)`.
        fetch_k: How many candidates the dense and the sparse view propose each. From the size of
            the corpus on the result is exact.

    Raises:
        InvalidInputError: If both `index` and `path` are given, or `fetch_k` is below 1.
        HybridIndexError: If the file can't be opened.

    Attributes:
        encoder: The encoder; around plain embeddings, one with the dense view alone.
        index: The index.
        fusion: The default fusion.
        fetch_k: The default number of candidates.

    Example:
        ```python
        from langchain_hfembed import BGEM3Embeddings, HybridVectorStore

        store = HybridVectorStore(BGEM3Embeddings(), path="knowledge.db")
        store.add_texts(["Seoul is the capital of Korea.", "Tokyo is the capital of Japan."])
        for hit in store.search("Korean capital", k=1):
            print(hit.score, hit.scores, hit.document.page_content)
        ```
    """

    def __init__(
        self,
        embedding: Embeddings | HybridEncoder,
        index: HybridIndex | None = None,
        *,
        path: str | PathLike[str] | None = None,
        fusion: Fusion | None = None,
        fetch_k: int = 100,
    ) -> None:
        if index is not None and path is not None:
            raise InvalidInputError(f"give index={index!r} or path={path!r}, not both")
        if isinstance(index, (str, PathLike)):
            raise InvalidInputError(f"index={index!r} is no index; give path={index!r}")
        self.encoder = as_encoder(embedding)
        self._embedding = embedding
        self.fusion: Fusion = WeightedSum() if fusion is None else fusion
        check_counts(1, fetch_k)
        self.fetch_k = fetch_k
        if index is None:
            index = SQLiteIndex(":memory:" if path is None else path)
        self.index = index
        self._is_bound = False

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings that the store was made with."""
        return self._embedding  # type: ignore[return-value]  # an encoder has all its methods

    # Adding and removing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int = 128,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts, replacing those of the same ids.

        Everything is checked before the first text is encoded. Batches are stored as they are
        encoded; if one fails, those before it are kept.

        Args:
            texts: The texts.
            metadatas: JSON metadata, one a text.
            ids: Ids, one a text; new ones where None.
            batch_size: Documents a transaction, at most; fewer where their token vectors are
                large.
            **kwargs: Refused: there are no other options.

        Returns:
            The ids, one a text.

        Raises:
            InvalidInputError: If lengths differ, or a text, an id or metadata can't be stored.
            IndexMismatchError: If the index was made by another model.
        """
        _refuse(kwargs)
        if batch_size < 1:
            raise InvalidInputError(f"batch_size={batch_size} must be 1 or more")
        checked = check_texts(texts)
        records = _records(checked, metadatas, ids)
        self.bind()
        embeddings = self.encoder.iter_encode_documents(checked)
        encoded = (
            IndexRecord(record.id, record.text, record.metadata, embedding)
            for record, embedding in zip(records, embeddings, strict=True)
        )
        for batch in batched(encoded, batch_size):
            self.index.upsert(batch)
        return [record.id for record in records]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove documents by id; all of them where `ids` is None.

        Args:
            ids: The ids; those that are not there do no harm.
            **kwargs: Refused: there are no other options.
        """
        _refuse(kwargs)
        _check_ids(ids)
        self.bind()
        self.index.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, in the order of the ids, without those that are not there."""
        _check_ids(ids)
        return [document_of(record) for record in self.index.get(ids)]

    # Searching

    @overload
    def search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int | None = None,
        fusion: Fusion | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Hit]: ...
    @overload
    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]: ...

    def search(self, query: str, *args: Any, **kwargs: Any) -> list[Hit] | list[Document]:
        """Find documents, with their score and rank in each view.

        LangChain's own `search(query, search_type, ...)`, which its self-query retriever calls,
        works too, and returns documents.

        Args:
            query: What to look for.
            *args: In this order, or by name: `k`, how many documents, at most (4); `fetch_k`,
                candidates of the dense and of the sparse view, at least `k` (the store's);
                `fusion`, how the scores become one (the store's); and `filter`, which documents to
                look at, by their metadata (all), such as `{"year": {"$gte": 2024}}`; see
                `parse_filter`.
            **kwargs: Likewise.

        Returns:
            Hits, the best first; ties in the order in which the documents were stored.

        Raises:
            InvalidInputError: If the query can't be encoded, `k` or `fetch_k` is below 1, or the
                filter says what there is not.
            IndexMismatchError: If the index was made by another model.
            ValueError: If the fusion gives no weight to any view that there is.
        """
        if _names_search_type(args, kwargs):
            return super().search(query, *args, **kwargs)
        return self._search(query, *args, **kwargs)

    @overload
    async def asearch(
        self,
        query: str,
        k: int = 4,
        fetch_k: int | None = None,
        fusion: Fusion | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> list[Hit]: ...
    @overload
    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]: ...

    async def asearch(self, query: str, *args: Any, **kwargs: Any) -> list[Hit] | list[Document]:
        """Find documents without blocking the event loop; see `search`."""
        if _names_search_type(args, kwargs):
            return await super().asearch(query, *args, **kwargs)
        return await run_in_executor(None, self._search, query, *args, **kwargs)

    def candidates(
        self,
        queries: Sequence[str],
        fetch_k: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[Candidates]:
        """What searches start from: candidates with their scores in every view, before any fusion.

        Args:
            queries: What to look for.
            fetch_k: Candidates of the dense and of the sparse view, each; None for the store's.
            filter: Which documents to look at; as in `search`.

        Returns:
            The candidates of each query, in the order of the queries, as they are asked for.

        Raises:
            InvalidInputError: If a query can't be encoded, or `fetch_k` is below 1.
        """
        check_counts(1, fetch_k)
        filter_ = _parsed(filter)
        self.bind()
        return self._candidates(queries, fetch_k or self.fetch_k, filter_)

    def _candidates(
        self, queries: Sequence[str], fetch_k: int, filter_: Filter | None
    ) -> Iterator[Candidates]:
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            for query in self.encoder.encode_queries(queries[start : start + _QUERIES_AT_ONCE]):
                yield self.index.search(query, fetch_k, filter_)

    def explain(
        self,
        query: str,
        id: str,
        *,
        k: int = 4,
        fetch_k: int | None = None,
        fusion: Fusion | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Take the scores of a document apart: which tokens met, and what each of them added.

        Args:
            query: What was looked for.
            id: The document's id.
            k: As in the search, like the next three: a normalised fusion depends on the other
                candidates, and of these there are as many as hits at least.
            fetch_k: Candidates of the dense and of the sparse view; None for the store's.
            fusion: How the scores become one; None for the store's.
            filter: Which documents the candidates are chosen from.

        Returns:
            An explanation, which a notebook shows in colours, and `print` as text.

        Raises:
            InvalidInputError: If there is no such document, or the query can't be encoded.
        """
        _check_ids([id])
        check_counts(k, fetch_k)
        self.bind()
        return explain(
            self.index,
            self.encoder,
            query,
            id,
            fetch_k=max(k, self.fetch_k if fetch_k is None else fetch_k),
            fusion=self.fusion if fusion is None else fusion,
            filter_=_parsed(filter),
        )

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents of `search`."""
        return [hit.document for hit in self._search(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The documents of `search` with their fused scores, higher is better."""
        return [(hit.document, hit.score) for hit in self._search(query, k, **kwargs)]

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Documents nearest to a dense vector, by the dense view alone."""
        _refuse(kwargs)
        check_counts(k)
        hits = self._hits(_dense_only(embedding), k, fusion=_COSINE, filter_=_parsed(filter))
        return [hit.document for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The best hits, without those that say the same again.

        Args:
            query: What to look for.
            k: How many documents, at most.
            fetch_k: How many of the best hits, by the fused score, to choose from.
            lambda_mult: From 0, as different as can be, to 1, as near to the query as can be.
            filter: As in `search`.
            **kwargs: `fusion`, as in `search`.

        Source:
            Carbonell and Goldstein 1998, doi:10.1145/290941.291025; on dense vectors.
        """
        check_counts(k, fetch_k)
        filter_ = _parsed(filter)
        [encoded] = self.encoder.encode_queries([query])
        with self.index.snapshot():
            hits = self._hits(encoded, max(fetch_k, k), filter_=filter_, **kwargs)
            return self._diverse(encoded, hits, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Like `max_marginal_relevance_search`, by the dense view alone."""
        _refuse(kwargs)
        check_counts(k, fetch_k)
        query = _dense_only(embedding)
        with self.index.snapshot():
            hits = self._hits(query, max(fetch_k, k), fusion=_COSINE, filter_=_parsed(filter))
            return self._diverse(query, hits, k, lambda_mult)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | HybridEncoder,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> HybridVectorStore:
        """Make a store and add texts to it.

        Args:
            texts: The texts.
            embedding: The encoder.
            metadatas: JSON metadata, one a text.
            ids: Ids, one a text.
            **kwargs: For the constructor: `index` or `path`, `fusion`, `fetch_k`.
        """
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def __enter__(self) -> HybridVectorStore:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # min_max and dbsf give [0, 1] already; other fusions' scales are theirs.
        return float

    def _search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int | None = None,
        fusion: Fusion | None = None,
        filter: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> list[Hit]:
        _refuse(unknown)
        check_counts(k, fetch_k)
        filter_ = _parsed(filter)  # a mistake in it is found before the model runs
        [encoded] = self.encoder.encode_queries([query])
        return self._hits(encoded, k, fetch_k, fusion, filter_)

    def bind(self) -> None:
        """Hold the index's model against the encoder; all methods do so first.

        Raises:
            IndexMismatchError: If the index was made by another model.
        """
        if not self._is_bound:
            encoder = self.encoder
            self.index.bind(IndexModel(encoder.model_name, encoder.fingerprint, encoder.views))
            self._is_bound = True

    def _hits(
        self,
        query: HybridEmbedding,
        k: int,
        fetch_k: int | None = None,
        fusion: Fusion | None = None,
        filter_: Filter | None = None,
    ) -> list[Hit]:
        self.bind()
        return find(
            self.index,
            query,
            k=k,
            fetch_k=max(k, self.fetch_k if fetch_k is None else fetch_k),
            fusion=self.fusion if fusion is None else fusion,
            filter_=filter_,
        )

    def _diverse(
        self, query: HybridEmbedding, hits: list[Hit], k: int, lambda_mult: float
    ) -> list[Document]:
        if query.dense is None:
            raise InvalidInputError(
                "maximal marginal relevance compares dense vectors, and this encoder has none; "
                "use similarity_search"
            )
        ids = [str(hit.document.id) for hit in hits]
        dense: tuple[View, ...] = ("dense",)
        vectors = [record.embedding.dense for record in self.index.get(ids, views=dense)]
        chosen = maximal_marginal_relevance(
            np.array(query.dense), [v.tolist() for v in vectors if v is not None], lambda_mult, k
        )
        return [hits[position].document for position in chosen]


def _parsed(filter: Mapping[str, Any] | None) -> Filter | None:
    return None if filter is None else parse_filter(filter)


def _records(
    texts: list[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[IndexRecord]:
    """Texts, metadata and ids side by side, once each of them can be stored."""
    if isinstance(ids, str):
        _check_ids(ids)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is not None and len(values) != len(texts):
            raise InvalidInputError(f"{len(texts)} texts, but {len(values)} {name}")
    records = []
    for position, text in enumerate(texts):
        id_ = ids[position] if ids is not None else None
        id_ = str(uuid.uuid4()) if id_ is None else id_
        check_text(id_, position, "id")
        metadata = (metadatas[position] if metadatas is not None else None) or {}
        if not isinstance(metadata, Mapping):
            raise InvalidInputError(
                f"metadata {position} is {type(metadata).__name__}, not a dict", indices=[position]
            )
        record = IndexRecord(id_, text, dict(metadata), HybridEmbedding())
        try:
            metadata_json(record)
        except InvalidInputError as error:
            raise InvalidInputError(f"text {position}: {error}", indices=[position]) from error
        records.append(record)
    return records


def _dense_only(embedding: list[float]) -> HybridEmbedding:
    return HybridEmbedding(dense=np.asarray(embedding, np.float32))


def check_counts(k: object, fetch_k: object = None) -> None:
    """Raise InvalidInputError unless there can be so many hits, and so many candidates."""
    for name, value in (("k", k), ("fetch_k", fetch_k)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InvalidInputError(f"{name}={value!r} must be a whole number, 1 or more")


def _check_ids(ids: Iterable[str] | None) -> None:
    if isinstance(ids, str):
        raise InvalidInputError(f"expected a list of ids, got {ids!r}. Put it in a list: [{ids!r}]")
    for position, id_ in enumerate(ids or ()):
        check_text(id_, position, "id")


def _names_search_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return "search_type" in kwargs or (bool(args) and isinstance(args[0], str))


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
