"""The sparse view of an encoder, for the vector stores of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from langchain_hfembed.errors import InvalidInputError

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.base import HybridEncoder
    from langchain_hfembed.embeddings.milvus_sparse import MilvusSparseEmbeddings
    from langchain_hfembed.embeddings.qdrant_sparse import QdrantSparseEmbeddings


class SparseAdapters:
    """Gives a `HybridEncoder` with the sparse view its two adapters."""

    def as_qdrant_sparse(self) -> QdrantSparseEmbeddings:
        """The sparse view for `langchain_qdrant.QdrantVectorStore(sparse_embedding=...)`.

        Raises:
            InvalidInputError: If this encoder has no sparse view.
            ImportError: If langchain-qdrant is not installed.
        """
        from langchain_hfembed.embeddings.qdrant_sparse import QdrantSparseEmbeddings

        return QdrantSparseEmbeddings(self._sparse_encoder())

    def as_milvus_sparse(self) -> MilvusSparseEmbeddings:
        """The sparse view for `langchain_milvus.Milvus([dense, sparse], ...)`.

        Raises:
            InvalidInputError: If this encoder has no sparse view.
            ImportError: If langchain-milvus is not installed.
        """
        from langchain_hfembed.embeddings.milvus_sparse import MilvusSparseEmbeddings

        return MilvusSparseEmbeddings(self._sparse_encoder())

    def _sparse_encoder(self) -> HybridEncoder:
        encoder = cast("HybridEncoder", self)
        if "sparse" not in encoder.views:
            raise InvalidInputError(
                f"{encoder.model_name} has no sparse view, only {', '.join(encoder.views)}"
            )
        self._expect_sparse_calls()
        return encoder

    def _expect_sparse_calls(self) -> None:
        """Called when an adapter is made; encoders that can save passes override it."""
