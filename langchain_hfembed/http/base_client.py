"""What every class that sends texts away has: how many at once, how long, and connections."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from langchain_hfembed.http import background
from langchain_hfembed.http.closing import Closing
from langchain_hfembed.http.endpoint import CallSettings, Endpoint, Settings


class _Endpoints(dict[tuple[Settings, asyncio.AbstractEventLoop], Endpoint]):
    """Endpoints by their settings; used on the background loop alone, and so without a lock.

    Empty after pickling and deep copies: connections do not travel. Objects with the same
    parameters are equal, whatever they are connected to.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Endpoints)

    __hash__ = None


class RemoteClient(BaseModel, Closing):
    """How a model elsewhere is called; connections are opened on first use and shared by copies.

    Attributes:
        batch_size: Texts a request, at most; None for what the server says, else 32.
        max_concurrency: Requests in flight, at most, of all threads and event loops together.
        timeout: Seconds that one request may take in all.
        max_retries: Attempts after the first one.
        cold_start_timeout: Seconds to wait for an endpoint that is starting.
    """

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be a secret
    )

    batch_size: int | None = Field(default=None, ge=1)
    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=60, gt=0)
    max_retries: int = Field(default=5, ge=0)
    cold_start_timeout: float = Field(default=600, ge=0)

    _endpoints: _Endpoints = PrivateAttr(default_factory=_Endpoints)

    def close(self) -> None:
        """Close all connections; a later call opens them again."""
        background.run(self._close())

    async def aclose(self) -> None:
        """Close all connections; a later call opens them again."""
        await background.arun(self._close())

    async def _close(self) -> None:
        endpoints = list(self._endpoints.items())
        self._endpoints.clear()
        for (_, loop), endpoint in endpoints:
            if background.owns(loop):  # else it is that of a process this one was forked from
                await endpoint.aclose()

    @abstractmethod
    def _settings(self) -> Settings:
        """How to reach the model."""

    def _call_settings(self) -> CallSettings:
        """How much is sent at once, and how long it is tried."""
        return CallSettings(
            batch_size=self.batch_size,
            max_concurrency=self.max_concurrency,
            timeout=self.timeout,
            max_retries=self.max_retries,
            cold_start_timeout=self.cold_start_timeout,
        )

    def _endpoint(self) -> Endpoint:
        """The endpoint for the settings as they are now; called on the background loop."""
        settings = self._settings()
        # A fork gets a loop, and so connections, of its own.
        key = (settings, asyncio.get_running_loop())
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint(settings)
        return self._endpoints[key]
