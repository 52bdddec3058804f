"""One endpoint: any number of texts, within its limits and ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import SecretStr
from tqdm.auto import tqdm

from langchain_hfembed.errors import EmbeddingError, InvalidInputError, InvalidResponseError
from langchain_hfembed.http.batches import DEFAULT_BATCH_SIZE, MAX_BODY_BYTES, BatchRun, Limits
from langchain_hfembed.http.gate import Gate
from langchain_hfembed.http.limiter import Limiter
from langchain_hfembed.http.providers import ProviderRoute
from langchain_hfembed.http.retry import RetryPolicy
from langchain_hfembed.http.server import ServerRoute
from langchain_hfembed.http.tei import EMBED, EmbedOptions, EndpointInfo, read_metrics
from langchain_hfembed.http.transport import HttpTransport
from langchain_hfembed.vectors import SparseVector

T = TypeVar("T")


@dataclass(frozen=True)
class CallSettings:
    """How much is sent at once, and how long it is tried.

    Attributes:
        batch_size: Texts a request; None for what the server says.
        max_text_bytes: Bytes of the texts of a request.
        max_concurrency: Requests in flight.
        timeout: Seconds a request.
        max_retries: Attempts after the first one.
        cold_start_timeout: Seconds to wait for a start.
    """

    batch_size: int | None = None
    max_text_bytes: int = MAX_BODY_BYTES
    max_concurrency: int = 8
    timeout: float = 60
    max_retries: int = 5
    cold_start_timeout: float = 600


class Transport(Protocol):
    """A way out to the network."""

    @property
    def has_answered(self) -> bool:
        """Whether there ever was an answer, of whatever kind."""
        ...

    async def aclose(self) -> None:
        """Close all connections; none may be in use."""
        ...


class Route(Protocol):
    """A way to vectors: what is sent through a transport, and how replies are read."""

    @property
    def transport(self) -> Transport:
        """What its requests go through."""
        ...

    @property
    def where(self) -> str:
        """The URL or model, for messages."""
        ...

    async def prepare(self) -> EndpointInfo | None:
        """Find out what is there; None where it does not say."""
        ...

    async def embed(self, texts: list[str], options: EmbedOptions) -> list[list[float]]:
        """One vector a text."""
        ...


class Settings(Protocol):
    """What a model elsewhere is reached with; copies of an object that have equal ones share it."""

    @property
    def calls(self) -> CallSettings:
        """How much is sent at once, and how long it is tried."""
        ...

    def route(self, gate: Gate) -> Route:
        """The way to it, through a gate."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class EndpointSettings:
    """What an endpoint is reached with.

    Attributes:
        url: Of a server, or None for `model` through Inference Providers.
        model: Model id on the Hub.
        provider: Inference Provider; None for the user's default.
        bill_to: Organisation to bill.
        token: The access token.
        headers: Sent with each request, as name and value.
        calls: How much is sent at once, and how long it is tried.
        tei_path: What a TEI is asked for, if the URL is a bare host.
    """

    url: str | None
    model: str | None = None
    provider: str | None = None
    bill_to: str | None = None
    token: SecretStr | None = None
    headers: tuple[tuple[str, SecretStr], ...] = ()
    calls: CallSettings = CallSettings()
    tei_path: str = EMBED

    def route(self, gate: Gate) -> Route:
        """To the server, or to the model through Inference Providers."""
        headers = {name: value.get_secret_value() for name, value in self.headers}
        transport = HttpTransport(gate, self.token, headers)
        if self.url is not None:
            return ServerRoute(transport, self.url, self.tei_path, self.model)
        return ProviderRoute(
            gate.apart(),  # lookups at the Hub are no traffic of the provider's
            transport,
            self.model or "",
            provider=self.provider,
            bill_to=self.bill_to,
            token=self.token,
        )


class Endpoint:
    """Embeds and ranks texts; lives on the background loop, where it is made and closed.

    Args:
        settings: How to reach it.
    """

    def __init__(self, settings: Settings) -> None:
        self._calls = settings.calls
        self._limiter = Limiter(self._calls.max_concurrency)
        self._limits = Limits(body_bytes=self._calls.max_text_bytes)
        policy = RetryPolicy(self._calls.max_retries, self._calls.cold_start_timeout)
        self._route = settings.route(Gate(self._limiter, policy, self._calls.timeout))
        self._ready: asyncio.Task[EndpointInfo | None] | None = None
        self._waiting_for_info = 0
        self._calls_under_way = 0
        self._is_closing = False

    @property
    def where(self) -> str:
        """The URL, or the model and its provider, for messages."""
        return self._route.where

    @property
    def has_answered(self) -> bool:
        """Whether there ever was an answer, of whatever kind."""
        return self._route.transport.has_answered

    @property
    def server(self) -> ServerRoute:
        """The server behind the URL.

        Raises:
            InvalidInputError: If there is no URL.
        """
        if not isinstance(self._route, ServerRoute):
            raise InvalidInputError(
                f"{self.where} can't be asked this; it needs the URL of a server"
            )
        return self._route

    async def info(self) -> EndpointInfo | None:
        """What the server says about itself, asked once; None if it has no `/info`.

        Raises:
            EmbeddingError: If it can't be reached; the next call asks again.
        """
        if self._ready is None:
            self._ready = asyncio.create_task(self._prepare())
        ready = self._ready
        self._waiting_for_info += 1
        try:
            async with self._in_use():
                # Cancelling one caller must not cancel the request that others wait for.
                return await asyncio.shield(ready)
        finally:
            self._waiting_for_info -= 1
            is_abandoned = not ready.done() and not self._waiting_for_info
            if is_abandoned:
                ready.cancel()
            if self._ready is ready and (is_abandoned or _has_failed(ready)):
                self._ready = None

    async def embed(
        self, texts: Sequence[str], options: EmbedOptions, *, show_progress: bool = False
    ) -> list[list[float]]:
        """Vectors of texts, in their order.

        Raises:
            EmbeddingError: If a text can't be embedded; `.completed` has the vectors of others.
        """
        batches = BatchRun(texts, self._limits, lambda batch: self._route.embed(batch, options))
        try:
            vectors = await self._run(batches, len(texts), show_progress=show_progress)
            _require_one_dimension(vectors)
        except EmbeddingError as error:
            found = batches.results
            error.completed = {i: found[i] for i in sorted(found) if i not in error.indices}
            raise
        return vectors

    async def embed_sparse(
        self, texts: Sequence[str], options: EmbedOptions, *, show_progress: bool = False
    ) -> list[SparseVector]:
        """Token weights of texts, in their order.

        Raises:
            EmbeddingError: If a text can't be embedded.
        """
        server = self.server
        batches = BatchRun(texts, self._limits, lambda batch: server.embed_sparse(batch, options))
        return await self._run(batches, len(texts), show_progress=show_progress)

    async def rerank(
        self, query: str, texts: Sequence[str], options: Mapping[str, Any]
    ) -> list[float]:
        """The relevance of texts for a query, in their order.

        Raises:
            EmbeddingError: If a text can't be ranked.
        """
        server = self.server
        batches = BatchRun(texts, self._limits, lambda batch: server.rerank(query, batch, options))
        return await self._run(batches, len(texts))

    async def health(self) -> bool:
        """Whether the server says that it is well."""
        async with self._in_use():
            return await self.server.is_healthy()

    async def metrics(self) -> dict[str, float]:
        """The server's Prometheus samples."""
        async with self._in_use():
            return read_metrics(await self.server.metrics())

    async def aclose(self) -> None:
        """Close all connections; while a call is under way, that call does it at its end."""
        self._is_closing = True
        if not self._calls_under_way:
            await self._route.transport.aclose()

    async def _run(
        self, batches: BatchRun[T], total: int, *, show_progress: bool = False
    ) -> list[T]:
        if not total:
            return []
        async with self._in_use():
            await self.info()
            with tqdm(total=total, unit="text", disable=not show_progress) as bar:
                # Twice as many as may be sent: one that waits for its turn takes it at once.
                ready = 2 * self._calls.max_concurrency
                return await batches.run(ready, self.where, bar.update)

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[None]:
        self._calls_under_way += 1
        try:
            yield
        finally:
            self._calls_under_way -= 1
            if self._is_closing and not self._calls_under_way:
                await self._route.transport.aclose()

    async def _prepare(self) -> EndpointInfo | None:
        info = await self._route.prepare()
        permits = info.max_concurrent_requests if info else None
        served = info.max_client_batch_size if info else None
        sizes = [size for size in (self._calls.batch_size, served, permits) if size]
        self._limits.batch_size = min(sizes) if sizes else DEFAULT_BATCH_SIZE
        self._limiter.permits = permits
        return info


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _require_one_dimension(vectors: list[list[float]]) -> None:
    lengths = [len(vector) for vector in vectors]
    if len(set(lengths)) <= 1:
        return
    usual = max(set(lengths), key=lengths.count)
    odd = [position for position, length in enumerate(lengths) if length != usual]
    raise InvalidResponseError(
        f"{len(odd)} of {len(vectors)} vectors have another dimension than {usual}; does more than "
        "one model answer behind this URL?",
        indices=odd,
    )
