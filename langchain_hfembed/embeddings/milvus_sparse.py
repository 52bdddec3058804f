"""An encoder's sparse view as the sparse embeddings of langchain-milvus."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_hfembed.embeddings.base import HybridEncoder
from langchain_hfembed.vectors import HybridEmbedding

try:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
except ImportError as error:
    raise ImportError(
        f'as_milvus_sparse() needs langchain-milvus ({error}): pip install "langchain-milvus>=0.3"'
    ) from error


@dataclass(frozen=True)
class MilvusSparseEmbeddings(BaseSparseEmbedding):
    """For `langchain_milvus.Milvus([dense, sparse], ...)`, which takes none but its own subclasses.

    Attributes:
        encoder: Has the sparse view.
    """

    encoder: HybridEncoder

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Token weights of documents by token id, in the order of the texts."""
        return [_weights(each) for each in self.encoder.encode_documents(texts, ("sparse",))]

    def embed_query(self, query: str) -> dict[int, float]:
        """Token weights of a query by token id."""
        return _weights(self.encoder.encode_queries([query], ("sparse",))[0])


def _weights(embedding: HybridEmbedding) -> dict[int, float]:
    assert embedding.sparse is not None
    return embedding.sparse.to_dict()
