"""A model on Amazon SageMaker, through boto3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from langchain_hfembed.errors import InvalidInputError, InvalidResponseError
from langchain_hfembed.http import background
from langchain_hfembed.http.endpoint import CallSettings
from langchain_hfembed.http.gate import Gate
from langchain_hfembed.http.replies import read_vectors
from langchain_hfembed.http.sagemaker_failures import read_broken_call, read_client_error
from langchain_hfembed.http.tei import EmbedOptions, json_body, read_json
from langchain_hfembed.http.token_vectors import Pooling, pool_reply

T = TypeVar("T")


@dataclass(frozen=True)
class SageMakerSettings:
    """What an endpoint of SageMaker is reached with.

    Attributes:
        arguments: Of `invoke_endpoint`, but for the body, as name and value.
        calls: How much is sent at once, and how long it is tried.
        region_name: None for the profile's or the environment's.
        credentials_profile_name: None for what boto3 finds.
        client: Of boto3, for `sagemaker-runtime`, instead of one made here.
        model_kwargs: What goes into a request besides the texts, as JSON.
        pooling: Of replies with one vector a token.
        normalize: Whether to scale vectors to length 1.
    """

    arguments: tuple[tuple[str, str], ...]
    calls: CallSettings
    region_name: str | None = None
    credentials_profile_name: str | None = None
    client: Any = field(default=None, repr=False)
    model_kwargs: bytes = b"{}"
    pooling: Pooling = "mean"
    normalize: bool = True

    def route(self, gate: Gate) -> SageMakerRoute:
        """To the endpoint."""
        return SageMakerRoute(SageMakerTransport(gate, self), self)


class SageMakerTransport:
    """Calls `invoke_endpoint` in threads, since boto3 blocks.

    Args:
        gate: What calls pass through.
        settings: How the endpoint is reached.

    Attributes:
        has_answered: Whether there ever was an answer, of whatever kind.
    """

    def __init__(self, gate: Gate, settings: SageMakerSettings) -> None:
        self._gate = gate
        self._settings = settings
        self._arguments = dict(settings.arguments)
        self._client = settings.client
        self.has_answered = False

    @property
    def where(self) -> str:
        """The endpoint, for messages, with its region once that is known."""
        component = self._arguments.get("InferenceComponentName")
        meta = getattr(self._client, "meta", None)  # which another's client may lack
        region = meta.region_name if meta else self._settings.region_name
        return (
            f"the SageMaker endpoint {self._arguments['EndpointName']}"
            f"{f', component {component},' if component else ''}{f' in {region}' if region else ''}"
        )

    async def connect(self) -> None:
        """Make the client, unless one was given.

        Raises:
            EmbeddingError: If the profile or the region is missing.
            ImportError: If boto3 is.
        """
        if self._client is None:
            self._client = await background.in_daemon_thread(self._new_client)

    async def invoke(self, body: bytes, read: Callable[[bytes], T], *, texts: int) -> T:
        """Send a request, and read the reply.

        Args:
            body: The JSON.
            read: Makes something of the reply; called in a thread.
            texts: How many texts are in it.

        Raises:
            Refusal: If the last answer was no success.
            EmbeddingError: If there was none, or `read` raises it.
        """
        return await self._gate.send(
            lambda: background.in_daemon_thread(self._invoke, body, read), self.where, texts=texts
        )

    async def aclose(self) -> None:
        """Close all connections of a client that was made here; none may be in use."""
        if self._client is not None and self._settings.client is None:
            self._client.close()

    def _invoke(self, body: bytes, read: Callable[[bytes], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            reply = self._client.invoke_endpoint(**self._arguments, Body=body)
            self.has_answered = True
            content: bytes = reply["Body"].read()
        except ClientError as error:
            self.has_answered = True
            raise read_client_error(error, self.where) from error
        except (BotoCoreError, HTTPError) as error:  # the latter where an error's body is cut off
            raise read_broken_call(error, self.where) from error
        return read(content)

    def _new_client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise ImportError(
                f'{error}; SageMaker needs: pip install "langchain-hfembed[sagemaker]"'
            ) from error
        calls = self._settings.calls
        config = Config(
            connect_timeout=calls.timeout,
            read_timeout=calls.timeout,
            max_pool_connections=calls.max_concurrency,
            retries={"total_max_attempts": 1},  # ours is the one retry policy
        )
        try:
            # A session of its own: boto3's default one is not made for threads.
            session = boto3.Session(
                profile_name=self._settings.credentials_profile_name,
                region_name=self._settings.region_name,
            )
            return session.client("sagemaker-runtime", config=config)
        except BotoCoreError as error:
            raise read_broken_call(error, self.where) from error
        except ValueError as error:
            raise InvalidInputError(
                f"{self.where} can't be asked: {error}. Check AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME "
                "and AWS_ENDPOINT_URL, which start with https://"
            ) from error


class SageMakerRoute:
    """An endpoint whose container is TEI, or a toolkit of Hugging Face.

    Args:
        transport: Sends.
        settings: What is sent along, and how replies are read.

    Attributes:
        transport: As given.
    """

    def __init__(self, transport: SageMakerTransport, settings: SageMakerSettings) -> None:
        self.transport = transport
        self._model_kwargs: dict[str, Any] = read_json(settings.model_kwargs)
        self._settings = settings

    @property
    def where(self) -> str:
        """The endpoint, for messages."""
        return self.transport.where

    async def prepare(self) -> None:
        """Connect; an endpoint says nothing about itself."""
        await self.transport.connect()

    async def embed(self, texts: list[str], options: EmbedOptions) -> list[list[float]]:
        """One vector a text."""
        body = json_body({**self._model_kwargs, **options.given(), "inputs": texts})

        def read(reply: bytes) -> list[list[float]]:
            return self._read(reply, len(texts))

        return await self.transport.invoke(body, read, texts=len(texts))

    def _read(self, reply: bytes, expected: int) -> list[list[float]]:
        try:
            document = read_json(reply)
        except (ValueError, RecursionError):
            start = reply[:120].decode("utf-8", "replace").replace("\n", " ")
            raise InvalidResponseError(
                f"the container did not answer with JSON: {start!r}. Check that it is one that "
                "embeds texts",
                indices=range(expected),
            ) from None
        vectors = read_vectors(pool_reply(document, self._settings.pooling), expected)
        return _unit(vectors) if self._settings.normalize else vectors


def _unit(vectors: list[list[float]]) -> list[list[float]]:
    """Vectors of length 1; zeros stay zeros."""
    rows = np.array(vectors)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: list[list[float]] = (rows / np.where(norms > 0, norms, 1)).tolist()
    return scaled
