"""An encoder's sparse view as the sparse embeddings of langchain-qdrant."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_hfembed.embeddings.base import HybridEncoder
from langchain_hfembed.vectors import HybridEmbedding

try:
    from langchain_qdrant import SparseEmbeddings, SparseVector
except ImportError as error:
    raise ImportError(
        f'as_qdrant_sparse() needs langchain-qdrant ({error}): pip install "langchain-qdrant>=1.1"'
    ) from error


@dataclass(frozen=True)
class QdrantSparseEmbeddings(SparseEmbeddings):
    """For `langchain_qdrant.QdrantVectorStore(sparse_embedding=...)`.

    Attributes:
        encoder: Has the sparse view.
    """

    encoder: HybridEncoder

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Token weights of documents, in the order of the texts."""
        return [_vector(each) for each in self.encoder.encode_documents(texts, ("sparse",))]

    def embed_query(self, text: str) -> SparseVector:
        """Token weights of a query."""
        return _vector(self.encoder.encode_queries([text], ("sparse",))[0])


def _vector(embedding: HybridEmbedding) -> SparseVector:
    assert embedding.sparse is not None
    # Plain numbers: pydantic and JSON take no int32 and no float32.
    return SparseVector(
        indices=embedding.sparse.indices.tolist(), values=embedding.sparse.values.tolist()
    )
