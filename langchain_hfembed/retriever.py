"""A LangChain retriever over a hybrid store, which tells each document's scores."""

from __future__ import annotations

from os import PathLike
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field

from langchain_hfembed.embeddings.base import HybridEncoder
from langchain_hfembed.fusion import Fusion
from langchain_hfembed.hits import Hit, with_scores
from langchain_hfembed.index.base import HybridIndex
from langchain_hfembed.vectorstore import HybridVectorStore


class HybridRetriever(BaseRetriever):
    """Returns the best documents of a store, their scores in their metadata.

    Each document's metadata gains `relevance_score`, the fused score, and `scores`, a dict of
    the score in each view; the store keeps its own as they are.

    Attributes:
        store: Where to search.
        k: How many documents, at most.
        fetch_k: Candidates of the dense and of the sparse view; None for the store's.
        fusion: How scores become one; None for the store's.
        filter: Which documents to look at, by their metadata; see `HybridVectorStore.search`.
        score_threshold: Leave out documents whose fused score is below. Normalised scores depend
            on the other candidates, so use it with `WeightedSum(normalization=None)`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    store: HybridVectorStore
    k: int = Field(default=4, ge=1)
    fetch_k: int | None = Field(default=None, ge=1)
    fusion: Fusion | None = None
    filter: dict[str, Any] | None = None
    score_threshold: float | None = None

    @classmethod
    def from_documents(
        cls,
        documents: list[Document],
        embedding: Embeddings | HybridEncoder,
        *,
        index: HybridIndex | None = None,
        path: str | PathLike[str] | None = None,
        **kwargs: Any,
    ) -> HybridRetriever:
        """Store documents and return a retriever over them.

        Args:
            documents: The documents; ids are kept.
            embedding: The encoder.
            index: Where the views are stored.
            path: File of the default index; None keeps it in memory.
            **kwargs: Fields of the retriever.
        """
        store = HybridVectorStore(embedding, index, path=path)
        store.add_documents(documents)
        return cls(store=store, **kwargs)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        hits = self.store.search(
            query, self.k if k is None else k, self.fetch_k, self.fusion, self.filter
        )
        return self._documents(hits)

    # Not inherited: LangChain's takes no `k`.
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        hits = await self.store.asearch(
            query, self.k if k is None else k, self.fetch_k, self.fusion, self.filter
        )
        return self._documents(hits)

    def _documents(self, hits: list[Hit]) -> list[Document]:
        threshold = self.score_threshold
        return [with_scores(hit) for hit in hits if threshold is None or hit.score >= threshold]

    def _get_ls_params(self, **_kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(
            ls_retriever_name="hybrid",
            ls_vector_store_provider=type(self.store).__name__,
            ls_embedding_model=self.store.encoder.model_name,
        )
