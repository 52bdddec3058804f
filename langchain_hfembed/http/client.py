"""What every class with an endpoint has: where it is, what is sent along, and what to ask it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator

from langchain_hfembed.http import background
from langchain_hfembed.http.access_token import FoundToken, NamedToken, checked_token, find_token
from langchain_hfembed.http.base_client import RemoteClient
from langchain_hfembed.http.endpoint import Endpoint, EndpointSettings
from langchain_hfembed.http.tei import EndpointInfo

T = TypeVar("T")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")


class EndpointClient(RemoteClient):
    """How an endpoint is reached; connections are opened on first use and shared by copies.

    Attributes:
        endpoint_url: A server. A URL with a path is used as it is; of a bare host, `/info` is
            asked once.
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
    """

    endpoint_url: str | None = None
    huggingfacehub_api_token: SecretStr | None = Field(
        default_factory=find_token, alias="api_key", repr=False
    )
    headers: dict[str, SecretStr] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and {"api_key", "huggingfacehub_api_token"} <= values.keys():
            raise ValueError("api_key and huggingfacehub_api_token are the same; give one")
        return values

    @field_validator("endpoint_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        return url if url is None else checked_url(url)

    @field_validator("huggingfacehub_api_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        value = token.get_secret_value().strip() if token else ""
        if not value:
            return find_token()
        if isinstance(token, (FoundToken, NamedToken)):
            return token
        return SecretStr(checked_token(value, "api_key"))

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(
                    f"the header {name} holds a line break or a letter beyond ASCII; remove it"
                )
        return {name: SecretStr(v.get_secret_value().strip()) for name, v in headers.items()}

    def info(self) -> EndpointInfo | None:
        """What the server says about itself; None where it has no `/info`.

        Raises:
            EmbeddingError: If it can't be reached.
        """
        return background.run(self._ask(Endpoint.info))

    def health(self) -> bool:
        """Whether the server says that it is well; one request, without waiting.

        Raises:
            InvalidInputError: If there is no URL to ask.
        """
        return background.run(self._ask(Endpoint.health))

    def metrics(self) -> dict[str, float]:
        """The server's Prometheus samples, by name and labels; one request, without waiting.

        Raises:
            InvalidInputError: If there is no URL to ask.
            EmbeddingError: If the server has none.
        """
        return background.run(self._ask(Endpoint.metrics))

    async def _ask(self, question: Callable[[Endpoint], Awaitable[T]]) -> T:
        return await question(self._endpoint())

    def _settings(self) -> EndpointSettings:
        """How to reach the endpoint; subclasses add what they know."""
        return EndpointSettings(
            url=self.endpoint_url,
            token=self.huggingfacehub_api_token,
            headers=tuple(self.headers.items()),
            calls=self._call_settings(),
        )

    def __getstate__(self) -> dict[Any, Any]:
        """Without the token, for which the environment is read again, and `Authorization`."""
        state = super().__getstate__()
        fields = dict(state["__dict__"])
        del fields["huggingfacehub_api_token"]
        fields["headers"] = {
            name: value for name, value in self.headers.items() if name.lower() != "authorization"
        }
        given = state["__pydantic_fields_set__"] - {"huggingfacehub_api_token"}
        return {**state, "__dict__": fields, "__pydantic_fields_set__": given}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Look for a token here."""
        super().__setstate__(state)
        self.__dict__["huggingfacehub_api_token"] = find_token()


def checked_url(url: str) -> str:
    """The URL, if requests can be sent there.

    Raises:
        ValueError: If it is none, or has a password in it, which logs would show.
    """
    parts = urlsplit(url.strip())
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "endpoint_url has a user or password in it, which logs would show; pass it as "
            "headers={'Authorization': ...} or api_key="
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        shown = repr(url) if "@" not in url else "no URL"  # else a password may be in it
        raise ValueError(f"endpoint_url is {shown}; it must start with http:// or https://")
    try:
        _ = httpx.URL(url.strip()).host  # which is decoded only now
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"endpoint_url is {url!r}: {error}") from None
    return url.strip()
