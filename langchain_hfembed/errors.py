"""Every error this package raises, in one tree under `EmbeddingError`.

A message says what happened, with the value, and what to do next. Errors that stop a call half
way carry what the call had already done, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class EmbeddingError(Exception):
    """Base of every error of this package.

    Args:
        message: What happened, and what to do next.
        indices: Positions, in the caller's list, of the texts concerned. Never the position of a
            text that was not tried.
        completed: Dense vectors of the texts that had succeeded, by position.

    Attributes:
        indices: The positions, as a tuple.
        completed: The finished vectors, as a dict.
    """

    def __init__(
        self,
        message: str,
        *,
        indices: Iterable[int] = (),
        completed: Mapping[int, list[float]] | None = None,
    ) -> None:
        super().__init__(message)
        self.indices: tuple[int, ...] = tuple(indices)
        self.completed: dict[int, list[float]] = dict(completed or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from `args` alone; the attributes travel as state.
        return type(self), self.args, {"indices": self.indices, "completed": self.completed}


class AuthenticationError(EmbeddingError):
    """The server refused the token (401, 403)."""


class ModelNotFoundError(EmbeddingError):
    """There is no such model: not on the server (404), the Hub, or the disk."""


class RateLimitError(EmbeddingError):
    """The server still limited requests after all retries (429), or asks for more than 120 s."""


class ColdStartError(EmbeddingError):
    """The endpoint was still starting when `cold_start_timeout` ran out."""


class EndpointTimeoutError(EmbeddingError):
    """The server did not answer in time."""


class InvalidInputError(EmbeddingError, ValueError):
    """The caller's texts, ids, metadata or arguments can't be used; nothing was done with them."""


class InvalidResponseError(EmbeddingError):
    """The server's answer is not what was asked for; no vector of it was used."""


class CheckpointError(EmbeddingError):
    """A model folder lacks a file, or holds one of another shape or kind than it should."""


class HybridIndexError(EmbeddingError):
    """An index can't be opened, read or written; what it held, it still holds."""


class IndexMismatchError(HybridIndexError):
    """The index was made by another model, with other views or another dimension."""


class IndexLockedError(HybridIndexError):
    """Another process writes to the index for longer than the wait allows, or has it open alone."""
