"""Any LangChain `Embeddings` as an encoder with the dense view alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_hfembed.embeddings.base import HybridEncoder, check_texts, chunks
from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.vectors import HybridEmbedding, View, check_views


def as_encoder(embedding: Embeddings | HybridEncoder) -> HybridEncoder:
    """The encoder itself, or one with the dense view alone around plain `Embeddings`.

    Raises:
        InvalidInputError: If it is neither.
    """
    # Not isinstance() with a runtime protocol: before Python 3.12 it evaluates properties, and
    # `fingerprint` reads the checkpoint.
    if all(callable(getattr(embedding, name, None)) for name in ("encode_documents", "tokenize")):
        return cast(HybridEncoder, embedding)
    if isinstance(embedding, Embeddings):
        return DenseEncoder(embedding)
    raise InvalidInputError(
        f"embedding={embedding!r} is neither a LangChain Embeddings nor a HybridEncoder; "
        "pass an object such as BGEM3Embeddings()"
    )


class DenseEncoder:
    """Any LangChain `Embeddings` as an encoder with one view, the dense one.

    Args:
        embeddings: The embeddings to call.
    """

    views: tuple[View, ...] = ("dense",)

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        named = (getattr(embeddings, name, None) for name in ("model_name", "model", "repo_id"))
        self.model_name = next(
            (name for name in named if isinstance(name, str)), type(embeddings).__name__
        )
        identity = (
            f"{type(embeddings).__module__}.{type(embeddings).__qualname__}:{self.model_name}"
        )
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:32]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Pass the texts on."""
        return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Pass the text on."""
        return self.embeddings.embed_query(text)

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """Embed documents; see `HybridEncoder`."""
        _only_dense(views)
        checked = check_texts(texts)
        if not checked:
            return []  # some embeddings send a request for nothing, or raise
        vectors = self.embeddings.embed_documents(checked)
        if len(vectors) != len(checked):
            raise InvalidResponseError(
                f"{self.model_name} returned {len(vectors)} vectors for {len(checked)} texts"
            )
        return [self._embedding(vector, position) for position, vector in enumerate(vectors)]

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        """Embed queries; see `HybridEncoder`."""
        _only_dense(views)
        return [
            self._embedding(self.embeddings.embed_query(text), position)
            for position, text in enumerate(check_texts(texts))
        ]

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        """Embed documents as they come; see `HybridEncoder`."""
        _only_dense(views)
        for chunk in chunks(texts):
            yield from self.encode_documents(chunk)

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """There are no token vectors, hence no tokens."""
        return []

    def decode_token(self, token_id: int) -> str:
        """There is no sparse view, hence no token."""
        return str(token_id)

    def _embedding(self, vector: object, position: int) -> HybridEmbedding:
        try:
            return HybridEmbedding(dense=np.asarray(vector, np.float32))
        except (TypeError, ValueError) as error:
            raise InvalidResponseError(
                f"{self.model_name} returned no vector for text {position}: {error}",
                indices=[position],
            ) from error


def _only_dense(views: Iterable[View] | None) -> None:
    if views is not None and check_views(views) != ("dense",):
        raise InvalidInputError(f"views={views!r}: plain embeddings have the dense view alone")
