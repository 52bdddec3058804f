"""What encoders with one view have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from langchain_hfembed.embeddings.base import check_texts, encode_stream
from langchain_hfembed.errors import EmbeddingError, InvalidInputError
from langchain_hfembed.vectors import HybridEmbedding, View, check_views


class SingleView(ABC):
    """A `HybridEncoder` with one view; subclasses compute it, and name the model.

    Attributes:
        view: The view.
    """

    view: ClassVar[View]
    if TYPE_CHECKING:  # pydantic would take it for a field of each subclass
        model_name: str

    @property
    def views(self) -> tuple[View, ...]:
        """The one view."""
        return (self.view,)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Refuse: these would be dense vectors."""
        raise no_dense_view(self.model_name)

    def embed_query(self, text: str) -> list[float]:
        """Refuse: this would be a dense vector."""
        raise no_dense_view(self.model_name)

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The view of documents.

        Args:
            texts: The documents.
            views: May name the one view.

        Returns:
            One embedding a text, in the order of the texts.

        Raises:
            InvalidInputError: If `texts` is no list of strings, one of them can't be encoded, or
                another view is asked for.
            EmbeddingError: If the model or its server fails.
        """
        self._check_views(views)
        checked = self.check_texts(texts)
        return self._encode(checked, is_query=False) if checked else []

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """The view of queries; see `encode_documents`."""
        self._check_views(views)
        checked = self.check_texts(texts)
        return self._encode(checked, is_query=True) if checked else []

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """The view of documents as they come, at most 1,024 texts read ahead."""
        self._check_views(views)

        def encode(chunk: list[str]) -> list[HybridEmbedding]:
            return self._encode(self.check_texts(chunk), is_query=False)

        return encode_stream(texts, encode, self.check_texts)

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string a row of its multi-vector view: without it, none."""
        return []

    def decode_token(self, token_id: int) -> str:
        """The token that an index of the sparse view stands for: without names, its number."""
        return str(token_id)

    def check_texts(self, texts: Iterable[str]) -> list[str]:
        """The texts as a list, once it is sure that every one can be encoded; see the function."""
        return check_texts(texts)

    @abstractmethod
    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        """The view of texts that were checked; there is at least one."""

    def _check_views(self, views: Iterable[View] | None) -> None:
        if views is not None and check_views(views) != self.views:
            raise InvalidInputError(
                f"views={views!r}: {self.model_name} has the {self.view} view alone"
            )


T = TypeVar("T")


def usable(
    rows: Sequence[T],
    make: Callable[[T], HybridEmbedding],
    what: str,
    error_class: type[EmbeddingError] = EmbeddingError,
) -> list[HybridEmbedding]:
    """The embeddings of a model's output.

    Args:
        rows: The output, one row a text.
        make: Makes an embedding of a row, or raises ValueError or TypeError.
        what: Of what model the output is, for the message.
        error_class: What to raise.

    Raises:
        EmbeddingError: If there are rows that none can be made of; `.indices` has all of them,
            `.completed` the other dense vectors.
    """
    embeddings: dict[int, HybridEmbedding] = {}
    faults: dict[int, str] = {}
    for position, row in enumerate(rows):
        try:
            embeddings[position] = make(row)
        except (TypeError, ValueError) as error:  # noqa: PERF203  # each row has its own
            faults[position] = str(error)
    if not faults:
        return list(embeddings.values())
    position, reason = next(iter(faults.items()))
    raise error_class(
        f"{what} can't be used for {len(faults)} of {len(rows)} texts (the first is text "
        f"{position}: {reason})",
        indices=faults,
        completed={
            position: embedding.dense.tolist()
            for position, embedding in embeddings.items()
            if embedding.dense is not None
        },
    )


def no_dense_view(model_name: str) -> InvalidInputError:
    """The error for LangChain's calls to an encoder without dense vectors."""
    return InvalidInputError(
        f"{model_name} has no dense view, which is what embed_documents and embed_query return. "
        "Call encode_documents and encode_queries, or give it to a HybridVectorStore; for Qdrant's "
        "or Milvus's own store, pass what as_qdrant_sparse() or as_milvus_sparse() returns"
    )
