"""Any LangChain `Embeddings` as an encoder with the dense view alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import cast

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_hfembed.embeddings.base import HybridEncoder, check_not_empty
from langchain_hfembed.embeddings.single_view import SingleView, usable
from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.http.base_client import RemoteClient
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
        self._model = model

    @property
    def fingerprint(self) -> str:
        """The model's own, where it has one; else it differs with its class and name."""
        known = getattr(self._model, "fingerprint", None)  # of HuggingFaceEmbeddings, for one
        if isinstance(known, str):
            return known
        cls = type(self._model)
        identity = f"{cls.__module__}.{cls.__qualname__}:{self.model_name}"
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Pass the texts on."""
        return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Pass the text on."""
        return self.embeddings.embed_query(text)

    def check_texts(self, texts: Iterable[str]) -> list[str]:
        """The texts as a list; servers refuse empty ones, too."""
        checked = super().check_texts(texts)
        if isinstance(self._model, RemoteClient):
            check_not_empty(checked)
        return checked

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        if is_query:
            vectors = [self.embeddings.embed_query(text) for text in texts]
        else:
            vectors = self.embeddings.embed_documents(texts)
        if len(vectors) != len(texts):
            raise InvalidResponseError(
                f"{self.model_name} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        what = f"the vectors of {self.model_name}"
        return usable(vectors, _embedding, what, InvalidResponseError)


def _embedding(vector: object) -> HybridEmbedding:
    return HybridEmbedding(dense=np.asarray(vector, np.float32))


def without_cache(embeddings: Embeddings) -> Embeddings:
    """The model behind LangChain's CacheBackedEmbeddings, which have no name."""
    while isinstance(behind := getattr(embeddings, "underlying_embeddings", None), Embeddings):
        embeddings = behind
    return embeddings
