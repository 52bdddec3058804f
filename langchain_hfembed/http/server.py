"""A server behind a URL, and its paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from langchain_hfembed.errors import EmbeddingError, InvalidResponseError
from langchain_hfembed.http.failures import Refusal
from langchain_hfembed.http.replies import read_ranks, read_sparse, read_vectors
from langchain_hfembed.http.tei import (
    DENSE,
    OPENAI,
    RANKS,
    SPARSE,
    EmbedOptions,
    EndpointInfo,
    embed_body,
    openai_body,
    read_info,
    rerank_body,
    served,
    speaks_openai,
)
from langchain_hfembed.http.transport import HttpTransport
from langchain_hfembed.vectors import SparseVector


class ServerRoute:
    """A server behind a URL: TEI, or another that answers like it.

    Args:
        transport: Sends.
        url: Where it is. One with a path is used as it is; a bare host, once `/info` is known.
        tei_path: What a bare host is asked for if it is a TEI.
        model: Its name, for servers in OpenAI's format.
    """

    def __init__(
        self, transport: HttpTransport, url: str, tei_path: str, model: str | None = None
    ) -> None:
        self.transport = transport
        self._tei_path = tei_path
        self._model = model
        parts = urlsplit(url)
        self._has_path = parts.path not in ("", "/")
        self._speaks_openai = speaks_openai(url)
        self._serves: str | None = None
        self.where = url
        # `/info` lies beside the route: https://host/models/embed has https://host/models/info.
        path = parts.path.rstrip("/")
        folder = path.removesuffix(OPENAI) if self._speaks_openai else path.rpartition("/")[0]
        self._base = urlunsplit((parts.scheme, parts.netloc, folder, "", ""))

    async def prepare(self) -> EndpointInfo | None:
        """Ask `/info`, and choose the path; a server without `/info` is no error."""
        url = f"{self._base}/info"
        try:
            info = read_info(await self.transport.get(url))
        except InvalidResponseError:
            info = None
        except Refusal as refusal:
            # Where the path depends on it, a failure in passing must not be taken for an absence.
            if refusal.failure.kind in ("cold_start", "rate_limit") or (
                refusal.failure.kind == "unavailable" and not self._has_path
            ):
                raise refusal.as_error(url) from None
            info = None
        if not self._has_path:
            self.where = f"{self._base}{self._tei_path if info else '/'}"
        self._serves = served(info) if info else None
        return info

    async def embed(self, texts: list[str], options: EmbedOptions) -> list[list[float]]:
        """One vector a text."""
        body = (
            openai_body(texts, options, self._model)
            if self._speaks_openai
            else embed_body(texts, options)
        )
        return read_vectors(await self._post(body, texts, DENSE), len(texts))

    async def embed_sparse(self, texts: list[str], options: EmbedOptions) -> list[SparseVector]:
        """The token weights of each text."""
        reply = await self._post(embed_body(texts, options), texts, SPARSE)
        return read_sparse(reply, len(texts))

    async def rerank(self, query: str, texts: list[str], options: Mapping[str, Any]) -> list[float]:
        """How relevant each text is for a query."""
        reply = await self._post(rerank_body(query, texts, options), texts, RANKS)
        return read_ranks(reply, len(texts))

    async def is_healthy(self) -> bool:
        """Whether `/health` answers with success, asked once."""
        try:
            await self.transport.get_text(f"{self._base}/health")
        except (Refusal, EmbeddingError):
            return False
        return True

    async def metrics(self) -> str:
        """The page `/metrics`, asked once."""
        url = f"{self._base}/metrics"
        try:
            return await self.transport.get_text(url)
        except Refusal as refusal:
            raise refusal.as_error(url) from None

    async def _post(self, body: bytes, texts: list[str], wanted: str) -> object:
        try:
            return await self.transport.post(self.where, body, texts=len(texts))
        except Refusal as refusal:
            if refusal.failure.status == 424 and self._serves not in (None, wanted):
                refusal.detail = f"it serves a model for {self._serves}, not for {wanted}"
            raise
