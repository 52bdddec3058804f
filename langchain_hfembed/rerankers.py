"""Rerankers: put the documents of any retriever in a better order, and keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, field_validator

from langchain_hfembed.embeddings.base import check_not_empty, check_text
from langchain_hfembed.embeddings.dense import as_encoder
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.fusion import Fusion, WeightedSum
from langchain_hfembed.hits import best_hits, with_scores
from langchain_hfembed.http import background
from langchain_hfembed.http.client import EndpointClient
from langchain_hfembed.http.endpoint import EndpointSettings
from langchain_hfembed.http.tei import RERANK
from langchain_hfembed.scoring import score


class HuggingFaceEndpointReranker(EndpointClient, BaseDocumentCompressor):
    """Orders documents by a cross-encoder behind TEI's `/rerank`.

    Documents are sent in batches, several at a time, within the server's limits; temporary failures
    are retried. For LangChain's `ContextualCompressionRetriever`, among others.

    Example:
        ```py
        from langchain_hfembed import HuggingFaceEndpointReranker

        reranker = HuggingFaceEndpointReranker(endpoint_url="http://localhost:8080", top_n=3)
        best = reranker.compress_documents(documents, "What is the capital of Korea?")
        ```

    Attributes:
        endpoint_url: A TEI that serves a reranker. A URL with a path is used as it is; a bare
            host gets `/rerank`.
        top_n: How many documents to return; None for all.
        truncate: Cut texts that are too long for the model, instead of refusing them; None for
            the server's default.
        truncation_direction: Which end is cut off; None for the server's default.
        raw_scores: The model's logits, instead of scores between 0 and 1.
        huggingfacehub_api_token: Access token; see `HuggingFaceEndpointEmbeddings`, as for all
            that follow.
        batch_size: Texts a request, at most; None for what `/info` says, else 32.
        max_concurrency: Requests in flight, at most, of all threads and event loops together.
        timeout: Seconds that one request may take in all.
        max_retries: Attempts after the first one.
        cold_start_timeout: Seconds to wait for an endpoint that is starting.
        headers: Sent with each request.

    Raises:
        ValueError: If the URL or the token can't be one.
    """

    endpoint_url: str
    top_n: int | None = Field(default=3, ge=1)
    truncate: bool | None = True
    truncation_direction: Literal["left", "right"] | None = None
    raw_scores: bool = False

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents for a query, best first.

        Args:
            documents: In any order; they are not changed.
            query: The question.
            callbacks: Not used; a reranker has no steps of its own.

        Returns:
            Copies, whose metadata has the `relevance_score` of each: between 0 and 1, or a logit
            with `raw_scores`. Documents with equal scores keep their order.

        Raises:
            InvalidInputError: If the query or a document is empty, or can't be sent; `.indices`.
            EmbeddingError: If the server fails.
        """
        _check(documents, query)
        return background.run(self._compress(documents, query))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents for a query, best first; see `compress_documents`."""
        _check(documents, query)
        return await background.arun(self._compress(documents, query))

    async def _compress(self, documents: Sequence[Document], query: str) -> list[Document]:
        texts = [document.page_content for document in documents]
        options = {
            "truncate": self.truncate,
            "truncation_direction": self.truncation_direction,
            "raw_scores": self.raw_scores,
        }
        scores = await self._endpoint().rerank(query, texts, options)
        # Sorting is stable, and so equal scores keep the documents' order.
        best = sorted(zip(scores, documents, strict=True), key=lambda pair: -pair[0])[: self.top_n]
        return [
            document.model_copy(
                update={"metadata": {**document.metadata, "relevance_score": score}}
            )
            for score, document in best
        ]

    def _settings(self) -> EndpointSettings:
        return replace(super()._settings(), tei_path=RERANK)


def _check(documents: Sequence[Document], query: str) -> None:
    check_text(query, None, "the query")
    if not query:
        raise InvalidInputError("the query is empty, which servers refuse")
    for position, document in enumerate(documents):
        check_text(document.page_content, position, "document")
    check_not_empty([document.page_content for document in documents], "document")


class HybridReranker(BaseDocumentCompressor):
    """Orders the documents of any retriever by the views of an encoder, fused as in a store.

    The documents of one call are encoded together, all views in one pass, some hundred pages at a
    time; nothing has to be indexed. Give it the best 20 to 100 of a quick retriever.

    Example:
        ```py
        from langchain_hfembed import BGEM3Embeddings, HybridReranker

        reranker = HybridReranker(embedding=BGEM3Embeddings(), top_n=3)
        best = reranker.compress_documents(documents, "What is the capital of Korea?")
        ```

    Attributes:
        embedding: A hybrid encoder such as `BGEM3Embeddings` or `ComposedEncoder`, or any LangChain
            `Embeddings`, which is taken as dense only.
        fusion: How the scores become one. Normalised scores depend on the other documents.
        top_n: How many documents to return; None for all.

    Raises:
        ValueError: If `embedding` can't encode.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    embedding: Any
    fusion: Fusion = Field(default_factory=WeightedSum)
    top_n: int | None = Field(default=3, ge=1)

    @field_validator("embedding")
    @classmethod
    def _check_embedding(cls, embedding: Any) -> Any:
        as_encoder(embedding)
        return embedding

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents for a query, best first.

        Args:
            documents: In any order; they are not changed.
            query: The question.
            callbacks: Not used; a reranker has no steps of its own.

        Returns:
            Copies, whose metadata has the fused `relevance_score` of each, and `scores`, a dict of
            the score in each view. Documents with equal scores keep their order.

        Raises:
            InvalidInputError: If the query or a document can't be encoded; `.indices`.
            EmbeddingError: If the encoder fails.
            ValueError: If the fusion gives no weight to any view that there is.
        """
        check_text(query, None, "the query")
        if not documents:
            return []
        encoder = as_encoder(self.embedding)
        texts = [document.page_content for document in documents]
        [encoded] = encoder.encode_queries([query])
        scores = score(encoded, encoder.iter_encode_documents(texts))
        k = len(documents) if self.top_n is None else self.top_n
        hits = best_hits(scores, self.fusion, k, lambda best: [documents[i] for i in best])
        return [with_scores(hit) for hit in hits]
