"""Embeddings from a model on Amazon SageMaker."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from langchain_hfembed.embeddings.remote import RemoteEmbeddings
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.http.base_client import RemoteClient
from langchain_hfembed.http.sagemaker import SageMakerSettings
from langchain_hfembed.http.tei import EmbedOptions, json_body, read_json, text_bytes
from langchain_hfembed.http.token_vectors import Pooling

_ENDPOINT_NAME = re.compile("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # InvokeEndpoint's own pattern
_REAL_TIME_BODY_BYTES = 6_291_456
# Arguments of invoke_endpoint that are made from other parameters.
_MADE_HERE = {
    "Accept", "Body", "ContentType", "EndpointName", "InferenceComponentName", "TargetModel",
}  # fmt: skip
# And of the others, those that say which model answers.
_CHOOSE_THE_MODEL = ("TargetVariant", "TargetContainerHostname")


class SageMakerEndpointEmbeddings(RemoteClient, RemoteEmbeddings):
    """Dense embeddings from an Amazon SageMaker endpoint, through boto3.

    For containers that take `{"inputs": [...]}`: Text Embeddings Inference, the toolkit of Sentence
    Transformers (`{"embeddings": [...]}`), and that of transformers' feature-extraction pipeline,
    whose vectors, one a token, are pooled here. Texts are sent in batches, several at a time,
    within the limits on a request's size; temporary failures are retried. Every reply is checked:
    one finite vector a text, all of one dimension.

    Example:
        ```py
        from langchain_hfembed import SageMakerEndpointEmbeddings

        embeddings = SageMakerEndpointEmbeddings(
            endpoint_name="bge-m3", region_name="ap-northeast-2"
        )
        vectors = embeddings.embed_documents(["Seoul is the capital of Korea."])
        ```

    Attributes:
        endpoint_name: Of the endpoint.
        region_name: AWS region; None for the profile's, or `AWS_DEFAULT_REGION`.
        credentials_profile_name: Of `~/.aws/config`; None for what boto3 finds: the environment,
            the default profile, or the machine's role.
        client: Of boto3 for `sagemaker-runtime`, instead of these two. It is used as it is, its own
            retries and timeouts included.
        model: What is deployed there: the name in messages, indexes and caches. If absent, the
            endpoint's name.
        inference_component_name: Of an endpoint that hosts several models.
        target_model: File of the model, of a multi-model endpoint.
        endpoint_kwargs: Further arguments of `invoke_endpoint`, such as `TargetVariant`.
        model_kwargs: What goes into a request besides the texts, such as `{"truncate": True}` for
            TEI, and `{"parameters": {"truncation": True}}` for a toolkit.
        content_type: Of the request, which is JSON.
        pooling: How one vector a token become one: `"mean"`, or `"cls"`, which is the first.
            Nothing to a container that answers with one vector a text.
        normalize: Scale vectors to length 1. False leaves them as they come, and asks TEI not to.
        max_body_bytes: Of a request; a serverless endpoint takes 4 MB (4,194,304).
        query_prompt: Text put in front of queries, such as E5's `"query: "`.
        document_prompt: Likewise for documents.
        show_progress: Show a progress bar over documents.
        batch_size: Texts a request, at most; None for 32. Less where the replies, with one vector a
            token, grow beyond what SageMaker lets through.
        max_concurrency: Requests in flight, at most, of all threads and event loops together; those
            that were given up may still run, as boto3 can't be stopped.
        timeout: Seconds that one request may take in all; SageMaker itself gives up after 60.
        max_retries: Attempts after the first one; boto3's own retries are off.
        cold_start_timeout: Seconds to wait for a model that is being loaded.

    Raises:
        ValueError: If arguments contradict each other.
    """

    endpoint_name: str
    region_name: str | None = None
    credentials_profile_name: str | None = None
    client: Any = Field(default=None, repr=False, exclude=True)
    model: str | None = None
    inference_component_name: str | None = None
    target_model: str | None = None
    endpoint_kwargs: dict[str, str] = Field(default_factory=dict)
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    content_type: str = Field(default="application/json", min_length=1)
    pooling: Pooling = "mean"
    normalize: bool = True
    max_body_bytes: int = Field(default=_REAL_TIME_BODY_BYTES, ge=1024)
    query_prompt: str | None = None
    document_prompt: str | None = None
    show_progress: bool = False
    timeout: float = Field(default=70, gt=0)  # longer than SageMaker's, whose message says more

    @field_validator("endpoint_name")
    @classmethod
    def _check_endpoint_name(cls, name: str) -> str:
        if not _ENDPOINT_NAME.fullmatch(name):
            raise ValueError(
                f"endpoint_name={name!r} can't be one: give the name alone, such as 'my-endpoint', "
                "without a URL or an ARN"
            )
        return name

    @field_validator("endpoint_kwargs", "model_kwargs", mode="before")
    @classmethod
    def _check_none(cls, given: Any) -> Any:
        return {} if given is None else given  # langchain_community's default

    @field_validator("endpoint_kwargs")
    @classmethod
    def _check_endpoint_kwargs(cls, given: dict[str, str]) -> dict[str, str]:
        if made_here := sorted(_MADE_HERE & given.keys()):
            raise ValueError(
                f"endpoint_kwargs has {', '.join(made_here)}, which is made from other "
                "parameters; leave it out"
            )
        return given

    @field_validator("model_kwargs")
    @classmethod
    def _check_model_kwargs(cls, given: dict[str, Any]) -> dict[str, Any]:
        if "inputs" in given:
            raise ValueError("model_kwargs has inputs, which are the texts; leave it out")
        try:
            plain: dict[str, Any] = read_json(json_body(given))
        except TypeError as error:
            raise ValueError(f"model_kwargs is not JSON: {error}") from error
        return plain

    @model_validator(mode="after")
    def _check_client(self) -> Self:
        if self.client is not None and not hasattr(self.client, "invoke_endpoint"):
            raise ValueError(
                f"client={self.client!r} can't invoke endpoints; make it with "
                "boto3.client('sagemaker-runtime')"
            )
        if self.client is not None and (self.region_name or self.credentials_profile_name):
            raise ValueError(
                "a client has its region and credentials; leave out region_name and "
                "credentials_profile_name, or the client"
            )
        return self

    @property
    def model_name(self) -> str:
        """What to call the model in messages: its name, else the endpoint's."""
        return self.model or self.endpoint_name

    @property
    def fingerprint(self) -> str:
        """Differs with the model, and with what else changes the vectors of documents.

        The model is `model`, or else the endpoint, by its names: give `model` if it may move.
        """
        endpoint = (
            self.endpoint_name,
            self.inference_component_name,
            self.target_model,
            *map(self.endpoint_kwargs.get, _CHOOSE_THE_MODEL),
        )
        model_kwargs = json.dumps(self.model_kwargs, sort_keys=True)
        changes = (self.document_prompt or "", self.pooling, self.normalize, model_kwargs)
        identity = (self.model or endpoint, *changes)
        return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]

    def __getstate__(self) -> dict[Any, Any]:
        """Refused where a client was given, which can't travel."""
        if self.client is not None:
            raise TypeError(
                "a client can't be pickled; give region_name and credentials_profile_name instead"
            )
        return super().__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the client."""
        return super().__deepcopy__({id(self.client): self.client, **(memo or {})})

    def _settings(self) -> SageMakerSettings:
        arguments = {
            "EndpointName": self.endpoint_name,
            "ContentType": self.content_type,
            "Accept": "application/json",
            "InferenceComponentName": self.inference_component_name,
            "TargetModel": self.target_model,
            **self.endpoint_kwargs,
        }
        return SageMakerSettings(
            arguments=tuple((name, value) for name, value in arguments.items() if value),
            region_name=self.region_name,
            credentials_profile_name=self.credentials_profile_name,
            client=self.client,
            model_kwargs=json_body(self.model_kwargs),
            pooling=self.pooling,
            normalize=self.normalize,
            calls=replace(self._call_settings(), max_text_bytes=self._room()),
        )

    def _options(self) -> EmbedOptions:
        return EmbedOptions(normalize=None if self.normalize else False)

    def _room(self) -> int:
        """Bytes of a request that are left for texts."""
        empty = json_body({**self.model_kwargs, **self._options().given(), "inputs": []})
        return self.max_body_bytes - len(empty)

    async def _embed(self, texts: list[str], *, is_query: bool) -> list[list[float]]:
        prompt = (self.query_prompt if is_query else self.document_prompt) or ""
        prompted = [prompt + text for text in texts]
        self._check_sizes(prompted)
        return await self._endpoint().embed(
            prompted, self._options(), show_progress=self.show_progress and not is_query
        )

    def _check_sizes(self, texts: Sequence[str]) -> None:
        """Refuse what can't be sent at all, before anything is."""
        room = self._room()
        # The longest way to write a character takes 6 bytes.
        too_large = [i for i, t in enumerate(texts) if 6 * len(t) > room and text_bytes(t) > room]
        if too_large:
            first = too_large[0]
            raise InvalidInputError(
                f"text {first} takes {text_bytes(texts[first]):,} bytes of a request, of which "
                f"max_body_bytes={self.max_body_bytes:,} leaves {room:,}. Split the text",
                indices=too_large,
            )
