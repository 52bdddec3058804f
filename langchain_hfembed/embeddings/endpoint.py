"""Embeddings from a server: Inference Providers, Inference Endpoints, Text Embeddings Inference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator
from typing_extensions import Self

from langchain_hfembed.embeddings.base import warn
from langchain_hfembed.embeddings.credentials import Credentials, read_credentials
from langchain_hfembed.embeddings.endpoint_base import EndpointEncoder, is_url
from langchain_hfembed.embeddings.remote import RemoteEmbeddings
from langchain_hfembed.http import background
from langchain_hfembed.http.client import checked_url
from langchain_hfembed.http.endpoint import EndpointSettings
from langchain_hfembed.http.report import EndpointReport, examine
from langchain_hfembed.http.tei import EmbedOptions, speaks_openai

DEFAULT_MODEL = "sentence-transformers/all-mpnet-base-v2"  # langchain_huggingface's
# XLM-RoBERTa's tokens have 4 characters of English, and 1.5 to 1.9 of Korean.
_CHARACTERS_A_TOKEN = 4
_CJK_CHARACTERS_A_TOKEN = 1.6
_CJK = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
# langchain_huggingface's way to pass them, and what they are called here.
_MODEL_KWARGS = {
    "normalize": ("normalize",),
    "truncate": ("truncate",),
    "truncation_direction": ("truncation_direction",),
    "dimensions": ("dimensions",),
    "prompt_name": ("query_prompt_name", "document_prompt_name"),
}


class HuggingFaceEndpointEmbeddings(EndpointEncoder, RemoteEmbeddings):
    """Dense embeddings from Inference Providers, a dedicated Inference Endpoint, or TEI.

    Texts are sent in batches, several at a time, within the limits that the server names and those
    that it turns out to have; temporary failures are retried. Every reply is checked: one
    finite vector a text, all of one dimension.

    Example:
        ```py
        from langchain_hfembed import HuggingFaceEndpointEmbeddings

        embeddings = HuggingFaceEndpointEmbeddings(endpoint_url="http://localhost:8080")
        vectors = embeddings.embed_documents(["Seoul is the capital of Korea."])
        ```

    Attributes:
        model: Model id on the Hub, or a URL. Without model and URL, langchain_huggingface's
            default; beside a URL, the model that should be there. `repo_id` is another name.
        endpoint_url: A server. A URL with a path is used as it is; of a bare host, `/info` is
            asked once: TEI gets `/embed`, any other server POST `/`. A path that ends in
            `/v1/embeddings` is spoken to in OpenAI's format.
        provider: An Inference Provider, such as `"hf-inference"`, for a model id.
        bill_to: The organisation to bill.
        task: `"feature-extraction"`, the only one.
        model_kwargs: langchain_huggingface's way to pass `normalize`, `truncate`,
            `truncation_direction`, `dimensions` and `prompt_name`.
        normalize: Scale vectors to length 1; None for the server's default, as in the next three.
        truncate: Cut texts that are too long, instead of refusing them.
        truncation_direction: Which end is cut off.
        dimensions: Keep the first so many dimensions, of a Matryoshka model.
        query_prompt_name: A prompt of the model for queries, by its name on the server.
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries, such as E5's `"query: "`.
        document_prompt: Likewise for documents.
        context_window: Tokens the model takes. Longer texts, estimated at 4 characters a token
            (Korean, Japanese and Chinese: 1.6), are warned of once, and cut by the server.
        show_progress: Show a progress bar over documents.
        huggingfacehub_api_token: Access token; `api_key` is another name for it. If absent,
            `HF_TOKEN`, `HUGGINGFACEHUB_API_TOKEN` or your login to the Hub; a token found so goes
            to Hugging Face's own hosts only. Pickling drops it.
        batch_size: Texts a request, at most; None for what `/info` says, else 32.
        max_concurrency: Requests in flight, at most, of all threads and event loops together.
        timeout: Seconds that one request may take in all.
        max_retries: Attempts after the first one.
        cold_start_timeout: Seconds to wait for an endpoint that is starting.
        headers: Sent with each request; kept secret like the token, and not sent along where
            another host takes over. Pickling drops `Authorization`.

    Raises:
        ValueError: If arguments contradict each other, or a URL or token can't be one.
    """

    repo_id: str | None = None
    provider: str | None = None
    bill_to: str | None = None
    task: Literal["feature-extraction"] | None = "feature-extraction"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    context_window: int | None = Field(default=None, ge=1)
    show_progress: bool = False

    _warned_of_length: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _spread_model_kwargs(cls, values: Any) -> Any:
        """Options in `model_kwargs` are parameters, checked like these."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if values.get("model_kwargs", {}) is None:  # langchain_huggingface's default
            values["model_kwargs"] = {}
        if not isinstance(values.get("model_kwargs"), dict):
            return values
        for name, value in values["model_kwargs"].items():
            if name not in _MODEL_KWARGS:
                raise ValueError(
                    f"model_kwargs has no {name!r}; it takes {', '.join(_MODEL_KWARGS)}"
                )
            for field in _MODEL_KWARGS[name]:
                if values.get(field) not in (None, value):
                    raise ValueError(
                        f"model_kwargs has {name}={value!r}, the parameter says "
                        f"{field}={values[field]!r}; give it once"
                    )
                values[field] = value
        return values

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.model and self.repo_id and self.model != self.repo_id:
            raise ValueError(f"model={self.model!r} and repo_id={self.repo_id!r} are two models")
        name = self.model or self.repo_id
        if name and is_url(name):
            name = checked_url(name)
            if self.endpoint_url not in (None, name):
                raise ValueError(f"{name} and endpoint_url={self.endpoint_url} are two servers")
        elif name and ":" in name:
            raise ValueError(
                f"model={name!r} has a colon, as no model id has; a URL starts with http:// or "
                "https://"
            )
        if name is None and self.endpoint_url is None:
            name = DEFAULT_MODEL
        self.model = name
        if self.url is not None and self.provider is not None:
            raise ValueError(
                f"provider={self.provider!r} serves model ids; leave it out for {self.url}"
            )
        return self

    @property
    def url(self) -> str | None:
        """The server's URL; None for a model through Inference Providers."""
        if self.endpoint_url is None and self.model is not None and is_url(self.model):
            return self.model
        return self.endpoint_url

    @classmethod
    def from_credentials(cls, credentials: Credentials, **kwargs: Any) -> Self:
        """Embeddings for what a credentials file describes.

        Args:
            credentials: `{"api_key", "endpoint", "model_name", "context_window"}`, as a mapping,
                as JSON, or as the path of a JSON file. Any of them may be absent, but not endpoint
                and model both.
            kwargs: Further parameters; they win over the credentials.

        Raises:
            InvalidInputError: If a key is not one of these, or a value of another type.
            OSError: If the file can't be read.
        """
        given = read_credentials(credentials)
        for name, other in (("api_key", "huggingfacehub_api_token"), ("model", "repo_id")):
            if other in kwargs:
                given.pop(name, None)
        return cls(**{**given, **kwargs})

    def check(self) -> EndpointReport:
        """Try the endpoint with one short text, without retries; never raises.

        Returns:
            What works and what does not; `print` shows it a line each.
        """

        async def try_it() -> EndpointReport:
            return await examine(self._settings(), self._options(is_query=True))

        return background.run(try_it())

    def _settings(self) -> EndpointSettings:
        has_id = self.model is not None and not is_url(self.model)
        return replace(
            super()._settings(),
            url=self.url,
            model=self.model if has_id else None,
            provider=self.provider,
            bill_to=self.bill_to,
        )

    def _options(self, *, is_query: bool) -> EmbedOptions:
        truncate = self.truncate
        if truncate is None and self.context_window is not None and self._can_truncate():
            truncate = True
        return EmbedOptions(
            normalize=self.normalize,
            truncate=truncate,
            truncation_direction=self.truncation_direction,
            dimensions=self.dimensions,
            prompt_name=self._prompt_name(is_query=is_query),
        )

    def _changes_vectors(self) -> tuple[Any, ...]:
        return self.dimensions, self.normalize

    def _can_truncate(self) -> bool:
        """Whether texts can be cut on request; OpenAI's format has no such option."""
        if self.url is None:
            return self.provider == "hf-inference"
        return not speaks_openai(self.url)

    def _checked(self, texts: Sequence[str], name: str = "text") -> list[str]:
        checked = super()._checked(texts, name)
        self._warn_of_length(checked)
        return checked

    def _warn_of_length(self, texts: list[str]) -> None:
        if self.context_window is None or self._warned_of_length:
            return
        if too_long := sum(_estimated_tokens(text) > self.context_window for text in texts):
            self._warned_of_length = True
            outcome = "cut" if self._options(is_query=False).truncate else "cut or refused"
            warn(
                f"{too_long} of {len(texts)} texts are probably longer than {self.context_window} "
                f"tokens, and {outcome} by the server. Split them. This is said once"
            )

    async def _embed(self, texts: list[str], *, is_query: bool) -> list[list[float]]:
        return await self._endpoint().embed(
            self._prompted(texts, is_query=is_query),
            self._options(is_query=is_query),
            show_progress=self.show_progress and not is_query,
        )


def _estimated_tokens(text: str) -> float:
    dense = len(_CJK.findall(text))
    return dense / _CJK_CHARACTERS_A_TOKEN + (len(text) - dense) / _CHARACTERS_A_TOKEN
