"""`with` and `async with` for whatever has something to close."""

from __future__ import annotations

from abc import abstractmethod

from typing_extensions import Self


class Closing:
    """Is closed at the end of a block."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it without blocking the event loop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
