"""Any LangChain `Embeddings` as an encoder with the dense view alone."""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_hfembed.embeddings.base import HybridEncoder
from langchain_hfembed.embeddings.single_view import SingleView
from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.vectors import HybridEmbedding


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


class DenseEncoder(SingleView):
    """Any LangChain `Embeddings` as an encoder with one view, the dense one.

    Args:
        embeddings: The embeddings to call.
    """

    view = "dense"

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        model = without_cache(embeddings)
        named = (getattr(model, name, None) for name in ("model_name", "model", "repo_id"))
        self.model_name = next(
            (name for name in named if isinstance(name, str)), type(model).__name__
        )
        identity = f"{type(model).__module__}.{type(model).__qualname__}:{self.model_name}"
        known = getattr(model, "fingerprint", None)  # of HuggingFaceEmbeddings, for one
        self.fingerprint: str = known or hashlib.sha256(identity.encode()).hexdigest()[:32]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Pass the texts on."""
        return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Pass the text on."""
        return self.embeddings.embed_query(text)

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        if is_query:
            vectors = [self.embeddings.embed_query(text) for text in texts]
        else:
            vectors = self.embeddings.embed_documents(texts)
        if len(vectors) != len(texts):
            raise InvalidResponseError(
                f"{self.model_name} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        return [self._embedding(vector, position) for position, vector in enumerate(vectors)]

    def _embedding(self, vector: object, position: int) -> HybridEmbedding:
        try:
            return HybridEmbedding(dense=np.asarray(vector, np.float32))
        except (TypeError, ValueError) as error:
            raise InvalidResponseError(
                f"{self.model_name} returned no vector for text {position}: {error}",
                indices=[position],
            ) from error


def without_cache(embeddings: Embeddings) -> Embeddings:
    """The model behind LangChain's CacheBackedEmbeddings, which have no name."""
    while isinstance(behind := getattr(embeddings, "underlying_embeddings", None), Embeddings):
        embeddings = behind
    return embeddings
