"""What can go wrong between a client and an embedding endpoint, for `tests.tei_server` to do."""

from __future__ import annotations

import json as jsonlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Asked about each POST: its number, counted from 1, and what it holds.
Script = Callable[[int, "Entry"], "Fault | None"]


@dataclass
class Entry:
    """A request.

    Attributes:
        number: The how-manieth POST it is, from 1; 0 for another method.
        json: Its body; None where that is no JSON.
        started: When it had arrived, in seconds of `time.monotonic()`.
        ended: When its reply was sent or its client gone; None before.
        status: Of the reply; 0 before, and for a client that left.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body_bytes: int
    json: Any
    texts: list[str]
    started: float
    ended: float | None = None
    status: int = 0

    @property
    def inputs(self) -> int:
        """How many texts it holds."""
        return len(self.texts)


@dataclass(frozen=True)
class Reply:
    """Status, body and headers; the length is added."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What is sent in the place of the usual reply, or done to it.

    Attributes:
        reply: Sent instead; the request is not looked at.
        alter: Changes a success's results, a list with one element a text.
        delay: Seconds that the reply takes longer.
        cut: What happens to its body: half of the JSON, a reset halfway, or one piece at a time.
    """

    reply: Reply | None = None
    alter: Callable[[list[Any]], list[Any]] | None = None
    delay: float = 0.0
    cut: Literal["", "json", "reset", "drip"] = ""


def status(
    code: int, *, headers: Mapping[str, str] | None = None, json: object = None, text: str = ""
) -> Fault:
    """This status, with JSON as its body, or else with text."""
    kind = "text/plain; charset=utf-8" if json is None else "application/json"
    body = text if json is None else jsonlib.dumps(json)
    return Fault(Reply(code, body.encode(), {"content-type": kind, **(headers or {})}))


def overloaded() -> Fault:
    """TEI without a free permit."""
    return status(429, json={"error": "Model is overloaded", "error_type": "Overloaded"})


def unavailable(code: int = 503) -> Fault:
    """The proxy of an endpoint that is scaled to zero: nothing of TEI's in the body."""
    return status(code, json={"error": f"{code} Service Unavailable"})


def loading(estimated_time: float = 20.0, model: str = "org/model") -> Fault:
    """The legacy Inference API during a cold start."""
    message = f"Model {model} is currently loading"
    return status(503, json={"error": message, "estimated_time": estimated_time})


def starting(seconds: float, code: int = 503) -> Script:
    """A cold start: begins with the first request, ends after so long."""
    first: list[float] = []

    def script(number: int, entry: Entry) -> Fault | None:
        first.append(time.monotonic())
        return unavailable(code) if first[-1] - first[0] < seconds else None

    return script


def reset() -> Fault:
    """A TCP reset in the middle of the body."""
    return Fault(cut="reset")


def hang(seconds: float) -> Fault:
    """Silence, then the usual reply."""
    return Fault(delay=seconds)


def drip(seconds: float) -> Fault:
    """The usual body in 20 pieces, so that no single read takes long."""
    return Fault(delay=seconds, cut="drip")


def truncated_json() -> Fault:
    """Half of the JSON, in a reply that is whole as HTTP."""
    return Fault(cut="json")


def html_page(code: int = 200) -> Fault:
    """What login portals and proxies send."""
    page = "<!doctype html><html><body><h1>Welcome</h1></body></html>"
    return status(code, text=page, headers={"content-type": "text/html"})


def redirect(url: str, status: int = 307) -> Fault:
    """To another URL."""
    return Fault(Reply(status, headers={"location": url}))


def vector_too_few() -> Fault:
    """The last result is missing."""
    return Fault(alter=lambda rows: rows[:-1])


def null_in_vector(row: int = 0) -> Fault:
    """How a NaN arrives from TEI."""
    return _altered(row, lambda result: _spoilt(result, None))


def nan_in_vector(row: int = 0) -> Fault:
    """No JSON, yet Python's servers write it and Python's clients read it."""
    return _altered(row, lambda result: _spoilt(result, math.nan))


def ragged(row: int = 0) -> Fault:
    """One vector is shorter than the others."""
    return _altered(row, lambda vector: vector[:-1])


def token_level() -> Fault:
    """Two vectors a text: an endpoint without pooling."""
    return Fault(alter=lambda rows: [[row, row] for row in rows])


def _altered(row: int, change: Callable[[Any], Any]) -> Fault:
    return Fault(alter=lambda rows: [change(r) if i == row else r for i, r in enumerate(rows)])


def _spoilt(result: Any, value: float | None) -> Any:
    return {**result, "score": value} if isinstance(result, dict) else [value, *result[1:]]
