"""HTTP requests to URLs, and what of a reply is left when it was no success."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import httpx
from pydantic import SecretStr

from langchain_hfembed.errors import EmbeddingError, InvalidResponseError
from langchain_hfembed.http import background
from langchain_hfembed.http.access_token import describe, is_hugging_face, token_for
from langchain_hfembed.http.failures import Kind, Refusal, read_failure
from langchain_hfembed.http.gate import Gate
from langchain_hfembed.http.retry import PassingFailure
from langchain_hfembed.http.tei import read_json

_MAX_REDIRECTS = 5
_MOMENT = 0.003  # seconds, enough for another request to be sent


class HttpTransport:
    """Sends requests through a gate, from the background loop.

    Connections are closed with `aclose`, or else when nobody refers to the transport any more.

    Args:
        gate: What requests pass through.
        token: Sent where the host may see it.
        headers: Sent with each request, as far as the first redirect to another host.

    Attributes:
        has_answered: Whether there ever was an answer, of whatever kind.
    """

    def __init__(self, gate: Gate, token: SecretStr | None, headers: Mapping[str, str]) -> None:
        self._gate = gate
        self._token = token
        self._headers = dict(headers)
        self.has_answered = False
        # A client for each request in flight, each with one connection: in a pool for all, httpcore
        # 1.0 keeps connections of cancelled requests for ever (encode/httpcore#1093), and looks at
        # every connection whenever a request comes or goes.
        self._idle = [_new_client()]
        loop = asyncio.get_running_loop()
        weakref.finalize(self, _close_later, self._idle, loop).atexit = False

    async def post(
        self, url: str, body: bytes, *, texts: int, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a JSON request and read the JSON reply.

        Args:
            url: Where to.
            body: The JSON.
            texts: How many texts are in it.
            headers: Sent in addition.

        Raises:
            Refusal: If the server's last answer was no success.
            EmbeddingError: If it can't be reached, or answers with something else.
        """
        response = await self._gate.send(
            lambda: self._response("POST", url, body, headers), url, texts=texts
        )
        # First the next request goes out, whose slot this was: reading vectors takes milliseconds,
        # in which the server would have nothing to do.
        await asyncio.sleep(_MOMENT)
        return self._json(response)

    async def get(self, url: str) -> Any:
        """Ask for JSON, in the same manner."""
        return self._json(await self._gate.send(lambda: self._response("GET", url), url))

    async def get_text(self, url: str) -> str:
        """Ask for text, once: whatever fails is not tried again.

        Raises:
            Refusal: If the server's answer was no success.
            EmbeddingError: If it can't be reached.
        """
        try:
            response = await self._gate.once(lambda: self._response("GET", url), url)
        except PassingFailure as failure:
            raise failure.error from failure.__cause__
        return response.text

    async def aclose(self) -> None:
        """Close all connections; none may be in use."""
        await _close(self._idle)

    def _json(self, response: httpx.Response) -> Any:
        try:
            return read_json(response.content)
        except (ValueError, RecursionError):
            start = self._masked(response, response.text)[:120].replace("\n", " ")
            kind = self._masked(response, response.headers.get("content-type", "no content type"))
            raise InvalidResponseError(
                f"answered {response.status_code} with {kind}, not JSON: {start!r}. Check that the "
                "URL is an embedding endpoint"
            ) from None  # the cause would hold the reply, unmasked

    async def _response(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        all_headers = self._all_headers(url, body, headers)
        try:
            response = await self._send(method, url, body, all_headers)
        except httpx.DecodingError as error:
            raise InvalidResponseError(f"{url} answered with a garbled body: {error}") from error
        except httpx.TransportError as error:
            raise _unreachable(url, error) from error
        self.has_answered = True
        if not response.is_success:
            said = self._masked(response, response.content.decode("utf-8", "replace"))
            failure = read_failure(response.status_code, response.headers, said.encode())
            raise Refusal(failure, self._detail(url, response, failure.kind))
        return response

    async def _send(
        self, method: str, url: str, body: bytes | None, headers: httpx.Headers
    ) -> httpx.Response:
        """Send a request with a client that is idle."""
        client = self._idle.pop() if self._idle else _new_client()
        try:
            request = client.build_request(method, url, content=body, headers=headers)
            response = await self._follow(client, request)
        except BaseException:
            # What a request leaves behind that failed or was cancelled goes with its client.
            _start_closing([client])
            raise
        self._idle.append(client)
        return response

    async def _follow(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """Send a request, and again where redirects lead; other hosts see no secret of ours."""
        response = await client.send(request)
        for redirects in itertools.count():
            following = response.next_request
            if following is None:
                return response
            if redirects == _MAX_REDIRECTS:
                raise EmbeddingError(f"{request.url} redirects again and again. Check the URL")
            if (following.url.port or 0) > 65_535:
                raise EmbeddingError(f"{request.url} redirects to {following.url}, which is no URL")
            if following.method != request.method:
                raise EmbeddingError(
                    f"{request.url} redirects to {following.url} in a way that loses the texts. "
                    "Use that URL instead"
                )
            if not _is_same_host(request.url, following.url):
                for name in ("authorization", *self._headers):
                    following.headers.pop(name, None)
            request = following
            response = await client.send(request)
        raise AssertionError  # for mypy: the loop has no end

    def _all_headers(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> httpx.Headers:
        known = httpx.Headers({"Content-Type": "application/json"} if body else {})
        secret = token_for(url, self._token)
        if secret is not None:
            known["Authorization"] = f"Bearer {secret}"
        known.update(headers)
        known.update(self._headers)
        return known

    def _masked(self, response: httpx.Response, text: str) -> str:
        """What a server said, with our token and headers masked."""
        sent = [response.request.headers.get("authorization", ""), *self._headers.values()]
        secrets = {word for value in sent for word in value.split()[-1:]}
        if self._token is not None:
            secrets.add(self._token.get_secret_value())
        for secret in secrets:
            text = text.replace(secret, "**********") if len(secret) >= 4 else text
        return text

    def _detail(self, url: str, response: httpx.Response, kind: Kind) -> str:
        """What a user should know of a refusal besides the server's words."""
        asked = response.request.url
        redirected = [] if asked == url else [f"redirected to {asked}"]
        if kind != "authentication":
            return "".join(redirected)
        if "authorization" in response.request.headers:
            sent = f"sent: {describe(self._token)}"
        elif is_hugging_face(url):
            sent = "no token was sent; pass api_key= or set HF_TOKEN"
        else:
            withheld = f"{describe(self._token)} was not sent to {asked.host}, a host of others"
            sent = (
                f"{withheld if self._token else 'no token was sent'}; pass api_key=, or set "
                "HF_ENDPOINT_TOKEN for embeddings_from_env and hfembed check"
            )
        return ", ".join([*redirected, sent])


@lru_cache(maxsize=8)
def _ssl_context(_cert_file: str | None, _cert_dir: str | None) -> ssl.SSLContext:
    """The TLS context, cached: building it takes 60 ms.

    The arguments are variables that httpx itself reads; here they are the cache's key.
    """
    return httpx.create_ssl_context()


def _is_same_host(old: httpx.URL, new: httpx.URL) -> bool:
    """Whether a redirect stays on a server; another port is another one, https an upgrade."""
    upgraded = (old.scheme, old.port, new.scheme, new.port) == ("http", None, "https", None)
    return old.host == new.host and (upgraded or (old.scheme, old.port) == (new.scheme, new.port))


def _unreachable(url: str, error: httpx.TransportError) -> Exception:
    said = f"{type(error).__name__} {error}".strip()
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return EmbeddingError(
            f"{url} can't be trusted: {said}. If your own authority signed its certificate, "
            "name that authority in the variable SSL_CERT_FILE"
        )
    return PassingFailure(
        EmbeddingError(
            f"{url} can't be reached: {said}. Check that the server runs and the URL is right"
        )
    )


def _new_client() -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            verify=_ssl_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            timeout=None,  # noqa: S113 - the gate times a request as a whole
        )
    except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
        raise EmbeddingError(
            f"connections can't be set up: {error}. Check SSL_CERT_FILE, SSL_CERT_DIR, "
            "HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        ) from error


_closing: set[asyncio.Task[None]] = set()  # or else the loop may drop them


def _start_closing(clients: list[httpx.AsyncClient]) -> None:
    task = asyncio.create_task(_close(clients))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _close(clients: list[httpx.AsyncClient]) -> None:
    while clients:
        await clients.pop().aclose()


def _close_later(clients: list[httpx.AsyncClient], loop: asyncio.AbstractEventLoop) -> None:
    """Close what nobody uses any more; not after a fork, whose sockets are the parent's, too."""
    if background.owns(loop):
        asyncio.run_coroutine_threadsafe(_close(clients), loop)
