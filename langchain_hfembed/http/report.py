"""What works of an endpoint and what does not, for people to read."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from langchain_hfembed.errors import AuthenticationError, EmbeddingError
from langchain_hfembed.http.access_token import describe
from langchain_hfembed.http.endpoint import Endpoint, EndpointSettings
from langchain_hfembed.http.tei import LIMITS, EmbedOptions

_SAMPLE = "Seoul is the capital of Korea."


@dataclass(frozen=True)
class EndpointReport:
    """What became of one short text.

    Attributes:
        endpoint: The URL, or the model and its provider.
        token: Where the token came from, masked.
        reachable: Whether there was an answer at all.
        authorised: Whether the token was accepted; None where it did not come to that.
        model: What is served there, as far as it says.
        dimension: Of its vectors.
        limits: Texts and tokens that it takes, by TEI's names; empty where it does not say.
        round_trip_ms: Milliseconds for the text; of a server, over an open connection.
        error: What is wrong and what to do; None where all is well.
    """

    endpoint: str
    token: str
    reachable: bool = False
    authorised: bool | None = None
    model: str | None = None
    dimension: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    round_trip_ms: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[tuple[bool | None, str, str]]:
        """A line each: whether it is well (None: unknown), what, and how it is."""
        limits = ", ".join(f"{name} {value}" for name, value in self.limits.items())
        took = None if self.round_trip_ms is None else f"{self.round_trip_ms:.0f} ms"
        has_token = self.token != describe(None)
        return [
            (self.authorised if has_token or not self.authorised else None, "token", self.token),
            (self.reachable, "endpoint", self.endpoint),
            (_known(self.model), "model", self.model or "unknown"),
            (_known(self.dimension), "dimension", str(self.dimension or "unknown")),
            (_known(limits), "limits", limits or "not told"),
            (_known(took), "round trip", took or "none"),
            *([(False, "error", self.error)] if self.error else []),
        ]

    def __str__(self) -> str:
        marks = tick_marks()
        return "\n".join(f"{marks[ok]} {name:<11} {text}" for ok, name, text in self.lines())


def tick_marks() -> dict[bool | None, str]:
    """A tick, a cross and a dash; words where standard output can't print them, as in cp949."""
    marks: dict[bool | None, str] = {True: "✓", False: "✗", None: "-"}
    try:
        "".join(marks.values()).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return {True: "ok  ", False: "FAIL", None: "-   "}
    return marks


def _known(value: object) -> bool | None:
    return True if value else None


async def examine(settings: EndpointSettings, options: EmbedOptions) -> EndpointReport:
    """Try an endpoint once, without retries, over connections of its own."""
    report = EndpointReport(settings.url or settings.model or "", describe(settings.token))
    try:
        endpoint = Endpoint(replace(settings, calls=replace(settings.calls, max_retries=0)))
    except EmbeddingError as error:
        return replace(report, error=str(error))
    report = replace(report, endpoint=endpoint.where)
    try:
        info = await endpoint.info()
        if info is not None:
            limits = {name: getattr(info, name) for name in LIMITS}
            report = replace(
                report,
                reachable=True,
                model=info.model_id,
                limits={name: limit for name, limit in limits.items() if limit is not None},
            )
        started = time.perf_counter()
        [vector] = await endpoint.embed([_SAMPLE], options)
        return replace(
            report,
            endpoint=endpoint.where,
            reachable=True,
            authorised=True,
            model=report.model or settings.model,
            dimension=len(vector),
            round_trip_ms=(time.perf_counter() - started) * 1000,
            error=_other_model(settings.model, report.model),
        )
    except EmbeddingError as error:
        return replace(
            report,
            endpoint=endpoint.where,
            reachable=endpoint.has_answered,
            authorised=False if isinstance(error, AuthenticationError) else None,
            error=str(error),
        )
    finally:
        await endpoint.aclose()


def _other_model(expected: str | None, served: str | None) -> str | None:
    """The complaint about a server with another model; one that names a folder is believed."""
    if expected is None or served is None or served.startswith("/") or expected == served:
        return None
    return f"the server has {served}, not {expected}. Change the model or the URL"
