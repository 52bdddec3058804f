"""An encoder for tests of stores and indexes: all three views from hashed words, without torch."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_hfembed.embeddings.base import check_texts
from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.vectors import VIEWS, HybridEmbedding, SparseVector, View, check_views

_VOCABULARY = 1 << 15
_NO_WORDS = "<empty>"


class HashEncoder(Embeddings):
    """Each word has a random direction and a number, the same ones in every process.

    Texts that share words are near to each other in every view: the dense vector is the sum of the
    words' directions, the multi-vectors are the directions, the sparse weights count the words. A
    query's sparse weights differ from those of the same text as a document, so that a test can
    tell which of the two a store has asked for.

    Args:
        views: What it computes.
        dim: Of dense and token vectors.
        model_name: As in `HybridEncoder`.
        fingerprint: As in `HybridEncoder`; None derives one from the name.

    Attributes:
        encoded: The documents that it was given so far, in order.
    """

    def __init__(
        self,
        views: Iterable[View] = VIEWS,
        *,
        dim: int = 32,
        model_name: str = "hash",
        fingerprint: str | None = None,
    ) -> None:
        self.views = check_views(views)
        self.dim = dim
        self.model_name = model_name
        self.fingerprint = f"fingerprint of {model_name}" if fingerprint is None else fingerprint
        self.encoded: list[str] = []
        self._words: dict[int, str] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [_floats(embedding.dense) for embedding in self.encode_documents(texts, ("dense",))]

    def embed_query(self, text: str) -> list[float]:
        return _floats(self.encode_queries([text], ("dense",))[0].dense)

    def encode_documents(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        return list(self.iter_encode_documents(check_texts(texts), views))

    def encode_queries(
        self, texts: Sequence[str], views: Iterable[View] | None = None
    ) -> list[HybridEmbedding]:
        return [self._encode(text, views, weight=0.5) for text in check_texts(texts)]

    def iter_encode_documents(
        self, texts: Iterable[str], views: Iterable[View] | None = None
    ) -> Iterator[HybridEmbedding]:
        for text in texts:
            self.encoded.append(text)
            yield self._encode(text, views, weight=1.0)

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        return _words(text) or [_NO_WORDS]

    def decode_token(self, token_id: int) -> str:
        return self._words[token_id]

    def _encode(self, text: str, views: Iterable[View] | None, weight: float) -> HybridEmbedding:
        wanted = self.views if views is None else check_views(views)
        vectors = np.stack([_direction(word, self.dim) for word in self.tokenize(text)])
        weights = {_number(word): weight * count for word, count in Counter(_words(text)).items()}
        self._words.update({_number(word): word for word in _words(text)})
        return HybridEmbedding(
            dense=vectors.sum(axis=0) if "dense" in wanted else None,
            sparse=SparseVector.from_dict(weights) if "sparse" in wanted else None,
            multi_vector=vectors if "multi_vector" in wanted else None,
        )


def records(encoder: HashEncoder, texts: Mapping[str, str], **metadata: Any) -> list[IndexRecord]:
    """Records of an index for texts by id, all with the same metadata."""
    embeddings = encoder.encode_documents(list(texts.values()))
    return [
        IndexRecord(id_, text, metadata, embedding)
        for (id_, text), embedding in zip(texts.items(), embeddings, strict=True)
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _digest(word: str) -> int:
    # Not hash(), which differs from process to process.
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")


def _number(word: str) -> int:
    return _digest(word) % _VOCABULARY


@lru_cache(maxsize=4096)
def _direction(word: str, dim: int) -> np.ndarray:
    vector = np.random.default_rng(_digest(word)).standard_normal(dim).astype(np.float32)
    vector.flags.writeable = False
    return vector


def _floats(vector: np.ndarray | None) -> list[float]:
    assert vector is not None, "this encoder has no dense view"
    return [float(value) for value in vector]
