"""Token vectors computed on this machine, by a MultiVectorEncoder of Sentence Transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_hfembed.embeddings.base import check_texts
from langchain_hfembed.embeddings.local_base import LocalBase
from langchain_hfembed.embeddings.model_kind import Kind
from langchain_hfembed.embeddings.single_view import SingleView, usable
from langchain_hfembed.vectors import HybridEmbedding, View


class HuggingFaceMultiVectorEmbeddings(LocalBase, SingleView):
    """One vector a token of a ColBERT model that runs here, for late interaction (MaxSim).

    For `ComposedEncoder(multi_vector=...)`, or a `HybridVectorStore`. Markers, query expansion and
    the punctuation that is left out are the model's own.

    Example:
        ```py
        from langchain_hfembed import HuggingFaceMultiVectorEmbeddings

        colbert = HuggingFaceMultiVectorEmbeddings(model_name="lightonai/GTE-ModernColBERT-v1")
        [embedding] = colbert.encode_documents(["Seoul is the capital of Korea."])
        embedding.multi_vector.shape
        ```

    Attributes:
        model_name: A model id on the Hub or a folder, in any format that MultiVectorEncoder reads:
            its own, PyLate's, Stanford's ColBERT; as all that `HuggingFaceEmbeddings` has, too,
            it means the same here.

    Raises:
        ValueError: If arguments contradict each other.

    Source:
        ColBERT: Khattab and Zaharia 2020, arXiv:2004.12832.
    """

    view: ClassVar[View] = "multi_vector"
    _kind: ClassVar[Kind] = "MultiVectorEncoder"
    _forced: ClassVar[dict[str, Any]] = {"convert_to_numpy": True}

    def tokenize(self, text: str, *, is_query: bool = False) -> list[str]:
        """The tokens of a text, one string a row of its multi-vector view.

        Where the model pools tokens, rows have numbers for names.

        Args:
            text: A document, or a query.
            is_query: Whether it is a query, which has other markers and perhaps an expansion.
        """
        [features] = self._run(
            check_texts([text]), "query" if is_query else "document", {"output_value": None}
        )
        kept = features["attention_mask"].bool()
        ids = features.get("input_ids")
        if ids is None or ids.shape != kept.shape:
            return [f"#{number}" for number in range(int(kept.sum()))]
        return self._token_texts(ids[kept].tolist())

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        rows = self._run(texts, "query" if is_query else "document")
        what = f"the token vectors of {self.model_name}"
        return usable(rows, lambda row: HybridEmbedding(multi_vector=row), what)
