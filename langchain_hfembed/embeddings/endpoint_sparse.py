"""The sparse view from a server: a SPLADE model behind Text Embeddings Inference."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from langchain_hfembed.embeddings.base import check_not_empty
from langchain_hfembed.embeddings.prompts import EndpointPrompts
from langchain_hfembed.embeddings.single_view import SingleView
from langchain_hfembed.embeddings.sparse_adapters import SparseAdapters
from langchain_hfembed.http import background
from langchain_hfembed.http.client import EndpointClient
from langchain_hfembed.http.endpoint import Endpoint, EndpointSettings
from langchain_hfembed.http.tei import EMBED_SPARSE, EmbedOptions
from langchain_hfembed.vectors import HybridEmbedding, SparseVector, View


class HuggingFaceEndpointSparseEmbeddings(
    EndpointClient, EndpointPrompts, SingleView, SparseAdapters
):
    """Sparse vectors from a SPLADE model behind TEI's `/embed_sparse`.

    Texts are sent in batches, several at a time, within the server's limits; temporary failures
    are retried. Every reply is checked: one vector a text, with finite weights. For a
    `HybridVectorStore`, alone or beside the views of other models.

    Example:
        ```python no-run
        from langchain_hfembed import HuggingFaceEndpointSparseEmbeddings, HybridVectorStore

        splade = HuggingFaceEndpointSparseEmbeddings(endpoint_url="http://localhost:8080")
        store = HybridVectorStore(splade)
        store.add_texts(["Seoul is the capital of Korea."])
        ```

    Attributes:
        endpoint_url: A TEI that serves a SPLADE model. A URL with a path is used as it is; a bare
            host gets `/embed_sparse`.
        model_name: The model that is there; `model` is another name. If absent, messages name the
            URL, and `fingerprint` asks the server.
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
    model_name: str = Field(default="", alias="model")
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    show_progress: bool = False

    @model_validator(mode="after")
    def _name_model(self) -> Self:
        self.model_name = self.model_name or self.endpoint_url
        return self

    @property
    def fingerprint(self) -> str:
        """Differs with the model, or with what is put in front of documents.

        The model is `model_name`, or else what `/info` says, whatever the URL. Without `/info`, or
        where that names a folder, it is the URL: give `model_name` if it may move.

        Raises:
            EmbeddingError: If the server is to be asked, and can't be reached.
        """
        if self.model_name == self.endpoint_url:
            model = background.run(self._ask(_served_model))
        else:
            model = self.model_name
        identity = (model, self.document_prompt or "", self.document_prompt_name)
        return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]

    def _encode(self, texts: list[str], *, is_query: bool) -> list[HybridEmbedding]:
        check_not_empty(texts)
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


async def _served_model(endpoint: Endpoint) -> str:
    """What the server calls its model, or where it is."""
    info = await endpoint.info()
    # A folder is no name: on Inference Endpoints every model lies in /repository.
    if info is None or info.model_id.startswith("/"):
        return endpoint.where
    return info.model_id
