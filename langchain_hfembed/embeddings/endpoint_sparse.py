"""The sparse view from a server: a SPLADE model behind Text Embeddings Inference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Literal

from langchain_hfembed.embeddings.base import check_not_empty
from langchain_hfembed.embeddings.endpoint_base import EndpointEncoder
from langchain_hfembed.embeddings.single_view import SingleView
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.http import background
from langchain_hfembed.http.endpoint import EndpointSettings
from langchain_hfembed.http.tei import EMBED_SPARSE, EmbedOptions
from langchain_hfembed.vectors import HybridEmbedding, SparseVector, View


class HuggingFaceEndpointSparseEmbeddings(  # type: ignore[override]  # its name is a property
    EndpointEncoder, SingleView, SparseAdapters
):
    """Sparse vectors from a SPLADE model behind TEI's `/embed_sparse`.

    Texts are sent in batches, several at a time, within the server's limits; temporary failures
    are retried. Every reply is checked: one vector a text, with finite weights. For a
    `HybridVectorStore`, alone or beside the views of other models.

    Example:
        ```py
        from langchain_hfembed import HuggingFaceEndpointSparseEmbeddings, HybridVectorStore

        splade = HuggingFaceEndpointSparseEmbeddings(endpoint_url="http://localhost:8080")
        store = HybridVectorStore(splade)
        store.add_texts(["Seoul is the capital of Korea."])
        ```

    Attributes:
        endpoint_url: A TEI that serves a SPLADE model. A URL with a path is used as it is; a bare
            host gets `/embed_sparse`.
        model: The model that is there. If absent, messages name the URL, and an index asks the
            server for its name.
        truncate: Cut texts that are too long, instead of refusing them; None for the server's
            default.
        truncation_direction: Which end is cut off; None for the server's default.
        query_prompt_name: A prompt of the model for queries, by its name on the server.
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries.
        document_prompt: Likewise for documents.
        show_progress: Show a progress bar over documents.
        huggingfacehub_api_token: Access token; see `HuggingFaceEndpointEmbeddings`, as for all
            that follow.
        batch_size: Texts a request, at most; None for what `/info` says, else 32.
        max_concurrency: Requests in flight, at most, of all threads and event loops together.
        timeout: Seconds that one request may take in all.
        max_retries: Attempts after the first one.
        cold_start_timeout: Seconds to wait for an endpoint that is starting.
        headers: Sent with each request.

    Raises:
        ValueError: If arguments contradict each other, or the URL or the token can't be one.

    Source:
        SPLADE: Formal et al. 2021, arXiv:2107.05720.
    """

    view: ClassVar[View] = "sparse"

    endpoint_url: str
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    show_progress: bool = False

    def check_texts(self, texts: Iterable[str]) -> list[str]:
        """The texts as a list; servers refuse empty ones, too."""
        checked = super().check_texts(texts)
        check_not_empty(checked)
        return checked

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        vectors = background.run(self._weigh(texts, is_query=is_query))
        return [HybridEmbedding(sparse=vector) for vector in vectors]

    async def _weigh(self, texts: list[str], *, is_query: bool) -> list[SparseVector]:
        options = EmbedOptions(
            truncate=self.truncate,
            truncation_direction=self.truncation_direction,
            prompt_name=self._prompt_name(is_query=is_query),
        )
        return await self._endpoint().embed_sparse(
            self._prompted(texts, is_query=is_query),
            options,
            show_progress=self.show_progress and not is_query,
        )

    def _settings(self) -> EndpointSettings:
        return replace(super()._settings(), tei_path=EMBED_SPARSE)
