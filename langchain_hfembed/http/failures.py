"""Replies other than success: what each means, and the error that a user sees of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Literal

from langchain_hfembed.errors import (
    AuthenticationError,
    ColdStartError,
    EmbeddingError,
    InvalidInputError,
    ModelNotFoundError,
    RateLimitError,
)

Kind = Literal[
    "authentication",  # the token is missing, wrong, or not allowed
    "not_found",  # no such model or path
    "rate_limit",  # wait, then send the same again
    "cold_start",  # the model is being loaded; wait for minutes
    "unavailable",  # a passing failure; send the same again
    "too_large",  # the body; send it in parts
    "invalid",  # the batch, one of its texts, or the request as a whole
    "failed",  # will fail again
]

_KINDS: dict[int, Kind] = {
    400: "invalid",
    401: "authentication",
    403: "authentication",
    404: "not_found",
    408: "unavailable",
    413: "too_large",
    422: "invalid",
    424: "failed",
    429: "rate_limit",
    500: "unavailable",
    502: "cold_start",
    503: "cold_start",
    504: "unavailable",
}

# TEI says in `error_type` what the status does not: up to 1.8 a text that is too long is a 413.
_KINDS_BY_TYPE: dict[object, Kind] = {
    "Validation": "invalid",
    "Tokenizer": "invalid",
    "Empty": "invalid",
    "Overloaded": "rate_limit",
    "Unhealthy": "unavailable",
    "Backend": "failed",
}

_ERRORS: dict[Kind, tuple[type[EmbeddingError], str]] = {
    "authentication": (
        AuthenticationError,
        "Check that the token is valid, and may use this model",
    ),
    "not_found": (ModelNotFoundError, "Check the model's name and the URL"),
    "rate_limit": (RateLimitError, "Lower max_concurrency, raise max_retries, or try later"),
    "cold_start": (
        ColdStartError,
        "The endpoint is still starting: wait, see its log, or raise cold_start_timeout",
    ),
    "unavailable": (EmbeddingError, "The server fails; see its log, or try later"),
    "too_large": (InvalidInputError, "It is larger than the server takes: split the text"),
    "invalid": (InvalidInputError, "The server does not take it: change it, or leave it out"),
    "failed": (EmbeddingError, "The server can't do this, however often it is asked; see its log"),
}

_BATCH_LIMIT = re.compile(r"maximum allowed batch size (\d{1,9})\b", re.IGNORECASE)
# What is said about a request, and of none of its texts. TEI writes `default-prompt-name`.
_REQUEST_FAULT = re.compile(r"prompt[-_ ]name|dimensions|truncation[-_ ]direction|deserialize")
_MESSAGE_LENGTH = 500


@dataclass(frozen=True)
class Failure:
    """A reply that is no success.

    Attributes:
        kind: What to do about it.
        status: The HTTP status.
        message: What the server says, shortened.
        wait: Seconds that it asks to wait; None where it does not say.
        batch_limit: The most texts a request, where it tells.
        blames_request: Whether the request itself is at fault, whatever the texts.
        remedy: What a user can do about it; empty for what the kind says.
    """

    kind: Kind
    status: int
    message: str
    wait: float | None = None
    batch_limit: int | None = None
    blames_request: bool = False
    remedy: str = ""


class Refusal(Exception):  # noqa: N818 - internal, and says what it is
    """A server answered, but not with success.

    Args:
        failure: What it said.
        detail: What else there is to know, in parentheses.
    """

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.detail = detail

    def as_error(self, where: str) -> EmbeddingError:
        """What a user gets to see of it.

        Args:
            where: The URL or model that was asked.
        """
        error, remedy = _ERRORS[self.failure.kind]
        said = f": {self.failure.message.rstrip('.')}" if self.failure.message else ""
        detail = f" ({self.detail})" if self.detail else ""
        remedy = self.failure.remedy or remedy
        return error(f"{where} answered {self.failure.status}{said}{detail}. {remedy}")


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Read a reply whose status is not 2xx.

    Args:
        status: The HTTP status.
        headers: The reply's headers, by lower-case name.
        body: The reply's body: JSON, plain text, a page of HTML, or nothing.

    Source:
        Text Embeddings Inference, `router/src/http/types.rs`, `ErrorResponse`; its routes in
        OpenAI's format call the same field `type`.
    """
    document = _json_object(body)
    error = document.get("error", document.get("message"))
    if isinstance(error, Mapping):  # as OpenAI-style servers nest it
        error = error.get("message")
    message = str(error) if error else _plain(body)
    error_type = document.get("error_type", document.get("type"))
    by_type = _KINDS_BY_TYPE.get(error_type) if isinstance(error_type, str) else None
    kind = by_type or _KINDS.get(status, "failed")
    if "is currently loading" in message:
        kind = "cold_start"
    limit = _BATCH_LIMIT.search(message)
    return Failure(
        kind,
        status,
        message[:_MESSAGE_LENGTH],
        _asked_wait(headers),
        batch_limit=int(limit.group(1)) if limit else None,
        blames_request=kind == "invalid" and bool(_REQUEST_FAULT.search(message)),
    )


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After`, or by the Hub's `RateLimit: "api";r=0;t=55`.

    Source:
        RFC 9110, section 10.2.3: seconds, or a date.
    """
    asked = headers.get("retry-after", "").strip()
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return max(0.0, seconds)
    try:
        moment = parsedate_to_datetime(asked)
    except (TypeError, ValueError, OverflowError):
        # Where requests remain (r), t says when their number is renewed, which is no wait.
        reset = re.search(r"\br=0\b.*?\bt=(\d+)", headers.get("ratelimit", ""))
        return float(reset.group(1)) if reset else None
    if moment.tzinfo is None:  # "-0000", which is UTC, too
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _json_object(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _plain(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())
