"""One forward pass for two calls: the dense view of some texts, and their sparse view after it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Literal

from langchain_hfembed.errors import EmbeddingError
from langchain_hfembed.vectors import HybridEmbedding, View

Side = Literal["document", "query"]

_OTHER_VIEW: dict[View, View] = {"dense": "sparse", "sparse": "dense"}
# Calls whose other view is kept. As many queries as there may be threads that search at once;
# documents come in large batches, one after the other, of which the newest is kept whatever its
# size, as Milvus sends everything at once.
_KEPT: dict[Side, int] = {"document": 4, "query": 64}
_KEPT_TEXTS = 4096


class OnePass:
    """Computes both views when a call asks for one, and keeps the other for the call that follows.

    Stores with a dense and a sparse index call twice with the same texts, in either order. A view
    that was kept is handed out once; where nobody asks for it, later calls displace it. Shared by
    shallow copies, hence `settings` in `encode`. Empty after pickling and deep copies, but still
    on.

    Args:
        is_on: Whether there is somebody who asks for the sparse view. While off, nothing is
            computed or kept that was not asked for.
    """

    def __init__(self, is_on: bool = False) -> None:
        self._is_on = is_on
        self._lock = threading.Lock()
        self._left: dict[Side, deque[tuple[Hashable, list[HybridEmbedding]]]] = {
            side: deque(maxlen=kept) for side, kept in _KEPT.items()
        }

    def switch_on(self) -> None:
        """Compute both views from now on."""
        self._is_on = True

    def encode(
        self,
        texts: list[str],
        views: tuple[View, ...],
        encode: Callable[[tuple[View, ...]], list[HybridEmbedding]],
        *,
        side: Side,
        settings: Callable[[], Hashable],
    ) -> list[HybridEmbedding]:
        """What `encode(views)` returns, from the call before where that has computed it.

        Args:
            texts: The texts.
            views: The views asked for; any but dense alone and sparse alone go straight through.
            encode: Computes views of the texts.
            side: What the texts are.
            settings: What it returns differs where the results would.
        """
        other = _OTHER_VIEW.get(views[0]) if len(views) == 1 else None
        if not self._is_on or other is None or not texts:
            return encode(views)
        asked = views[0]
        key = (settings(), tuple(texts))
        kept = self._take(side, (asked, key))
        if kept is not None:
            return kept
        try:
            both = encode(("dense", "sparse"))
        except EmbeddingError as error:
            if asked == "sparse":
                error.completed = {}  # nobody asked for these
            raise
        left = [_only(other, embedding) for embedding in both]
        with self._lock:
            kept_calls = self._left[side]
            kept_calls.append(((other, key), left))
            while len(kept_calls) > 1 and sum(len(e) for _, e in kept_calls) > _KEPT_TEXTS:
                kept_calls.popleft()
        return [_only(asked, embedding) for embedding in both]

    def _take(self, side: Side, key: Hashable) -> list[HybridEmbedding] | None:
        with self._lock:
            for position, (left_by, embeddings) in enumerate(self._left[side]):
                if left_by == key:
                    del self._left[side][position]
                    return embeddings
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._is_on,)


def _only(view: View, embedding: HybridEmbedding) -> HybridEmbedding:
    if view == "dense":
        return HybridEmbedding(dense=embedding.dense)
    return HybridEmbedding(sparse=embedding.sparse)
