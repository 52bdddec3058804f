"""Sparse embeddings computed on this machine, by a SparseEncoder of Sentence Transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from langchain_hfembed.embeddings.local_base import LocalBase
from langchain_hfembed.embeddings.model_kind import Kind
from langchain_hfembed.embeddings.single_view import SingleView, usable
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.vectors import HybridEmbedding, SparseVector, View


class HuggingFaceSparseEmbeddings(LocalBase, SingleView, SparseAdapters):
    """Token weights of a SPLADE model, or another one that is sparse, that runs here.

    For `ComposedEncoder(sparse=...)`, a `HybridVectorStore`, or another package's store. Queries
    and documents get the model's own prompts and, where it has two, its own ways: models that need
    no inference for queries take none.

    Example:
        ```py
        from langchain_hfembed import HuggingFaceSparseEmbeddings

        sparse = HuggingFaceSparseEmbeddings(model_name="naver/splade-v3")
        [embedding] = sparse.encode_queries(["What is the capital of Korea?"])
        weights = {sparse.decode_token(i): w for i, w in embedding.sparse.to_dict().items()}
        ```

    Attributes:
        model_name: A model id on the Hub or a folder, in any format that SparseEncoder reads; as
            all that `HuggingFaceEmbeddings` has, too, it means the same here.
        max_active_dims: Keep so many of a text's largest weights; None for what the model says.

    Raises:
        ValueError: If arguments contradict each other.

    Source:
        SPLADE: Formal et al. 2021, arXiv:2107.05720.
    """

    view: ClassVar[View] = "sparse"
    _kind: ClassVar[Kind] = "SparseEncoder"
    _forced: ClassVar[dict[str, Any]] = {
        "convert_to_tensor": False,
        "convert_to_sparse_tensor": True,
        "save_to_cpu": True,
    }

    max_active_dims: int | None = Field(default=None, ge=1)

    def decode_token(self, token_id: int) -> str:
        """The text of a token, or its name where it has no text of its own."""
        return self._token_texts([token_id])[0]

    def _own_arguments(self) -> dict[str, Any]:
        return {"max_active_dims": self.max_active_dims}

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        rows = self._run(texts, "query" if is_query else "document")
        return usable(rows, _embedding, f"the weights of {self.model_name}")


def _embedding(row: Any) -> HybridEmbedding:
    row = row.coalesce()
    indices = row.indices()[0].numpy()
    values = row.values().float().numpy()
    kept = ~(values <= 0)  # not `values > 0`: NaN must come to light
    return HybridEmbedding(sparse=SparseVector(indices[kept], values[kept]))
