"""What can go wrong between qdrant-client and a server: what is sent again, what the user sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from langchain_hfembed.errors import (
    AuthenticationError,
    EmbeddingError,
    EndpointTimeoutError,
    HybridIndexError,
    RateLimitError,
)
from langchain_hfembed.http.retry import PassingFailure, RetryPolicy

T = TypeVar("T")

_LONGEST_WAIT = 120.0  # seconds; as at other endpoints
# What gRPC calls the HTTP statuses that matter here.
_STATUSES = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.DEADLINE_EXCEEDED: 408,
    grpc.StatusCode.INTERNAL: 500,
    # A proxy or a node that goes away, or a write that met another one: it passes.
    grpc.StatusCode.UNKNOWN: 503,
    grpc.StatusCode.ABORTED: 503,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_NOT_SENT = 0  # beside HTTP statuses
_MEANINGS: dict[int | None, tuple[type[EmbeddingError], str]] = {
    _NOT_SENT: (HybridIndexError, "If the client was closed, open the index with another one"),
    401: (AuthenticationError, "Pass an api_key that may read and write this collection"),
    403: (AuthenticationError, "Pass an api_key that may read and write this collection"),
    404: (HybridIndexError, "Check the URL; if the collection was deleted, open the index again"),
    408: (EndpointTimeoutError, "Raise timeout, or lower batch_bytes"),
    413: (
        HybridIndexError,
        "Lower batch_bytes; for one document of this size raise the server's max_request_size_mb",
    ),
    429: (RateLimitError, "Send fewer requests at a time, or raise max_retries"),
    None: (HybridIndexError, "Check the URL, and whether the server runs"),
}
_REFUSED = (
    ResponseHandlingException,
    UnexpectedResponse,
    QdrantException,
    grpc.RpcError,
    httpx.HTTPError,
    RuntimeError,  # of a client that is closed
)


class Server:
    """A server, asked again where that may help: full jitter from 0.5 s, doubling up to 20 s.

    Every request of an index can be sent twice: points are replaced as a whole, by id.

    Args:
        url: Of the server, for messages; it has no password.
        collection: For messages.
        max_retries: Attempts after the first one; 0 sends once.
        is_local: Whether there is no server, but qdrant-client's local mode.
    """

    def __init__(self, url: str, collection: str, max_retries: int, *, is_local: bool) -> None:
        self.url = url
        self._collection = collection
        # Local mode's word for everything; elsewhere it would be a mistake of this package.
        self._refused = (*_REFUSED, ValueError) if is_local else _REFUSED
        self._policy = RetryPolicy(max_retries, cold_start_timeout=0)

    def ask(self, request: Callable[[], T]) -> T:
        """Send a request until it succeeds, or fails for good.

        Raises:
            EmbeddingError: One of ours, naming the URL.
        """

        def attempt() -> T:
            try:
                return request()
            except self._refused as error:
                failure = _failure_of(error)
                ours = self._error(failure)
                if failure.passes:
                    raise PassingFailure(ours, wait=failure.wait) from error
                raise ours from error

        return self._policy.call_blocking(attempt, self.url)

    def _error(self, failure: _Failure) -> EmbeddingError:
        status = failure.status
        # Qdrant itself answers 400 to a body above its limit, proxies before it 413.
        is_too_large = status == 400 and "larger than allowed" in failure.reason
        kind, advice = _MEANINGS.get(413 if is_too_large else status, (HybridIndexError, ""))
        if status is None:
            what = f"{self.url} can't be reached"
        elif status == _NOT_SENT:
            what = f"{self.url} was not asked"
        else:
            what = f"{self.url} refused a request on the collection {self._collection!r} ({status})"
        wait = f", and asks to wait {failure.wait:g} s" if failure.wait else ""
        return kind(f"{what}: {failure.reason}{wait}{advice and f'. {advice}'}")


@dataclass(frozen=True)
class _Failure:
    """What became of a request: an HTTP status, None for no reply, or `_NOT_SENT`."""

    status: int | None
    reason: str
    wait: float | None = None

    @property
    def passes(self) -> bool:
        if self.wait is not None and self.wait > _LONGEST_WAIT:
            return False
        return self.status is None or self.status in (408, 429) or self.status >= 500


def _failure_of(error: Exception) -> _Failure:
    if isinstance(error, ResponseHandlingException):
        error = error.source
    status: int | None = 400
    reason, wait = f"{type(error).__name__}: {error}", None
    if isinstance(error, ResourceExhaustedResponse):
        status, reason, wait = 429, str(error), float(error.retry_after_s)
    elif isinstance(error, QdrantException):  # a 429 whose Retry-After is a date
        status, reason = 429, str(error)
    elif isinstance(error, UnexpectedResponse):
        status = error.status_code
        reason = error.content.decode(errors="replace")[:500].strip() or error.reason_phrase
    elif isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        status, reason = _STATUSES.get(error.code(), 400), str(error.details())
    elif isinstance(error, httpx.TimeoutException):
        status, reason = 408, type(error).__name__
    elif isinstance(error, httpx.HTTPError):
        status = None
    elif isinstance(error, RuntimeError):
        status, reason = _NOT_SENT, str(error)
    return _Failure(status, reason, wait)
