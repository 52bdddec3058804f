"""Things that are loaded once, on first use, whichever thread comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Loaded(Generic[T]):
    """What was loaded, by the settings that it was loaded with.

    Shared by shallow copies, so that a copy with the same settings shares the weights, and one
    with others loads its own. Empty after pickling and deep copies: weights do not travel.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._things: dict[Hashable, T] = {}

    def get(self, settings: Hashable, load: Callable[[], T]) -> T:
        """The thing for these settings; the first caller loads it, others wait for it."""
        thing = self._things.get(settings)
        if thing is None:
            with self._lock:
                thing = self._things.get(settings)
                if thing is None:
                    thing = self._things[settings] = load()
        return thing

    def clear(self) -> list[T]:
        """Forget everything, and return what there was."""
        with self._lock:
            things = list(self._things.values())
            self._things.clear()
        return things

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
