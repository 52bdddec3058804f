"""Replies with one vector a token, which become one a text. No I/O."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Pooling = Literal["mean", "cls"]


def pool_reply(reply: object, pooling: Pooling) -> object:
    """A reply with one vector a text, where it had one a token; any other one as it is.

    Padding can't be told from tokens. The toolkit adds none, as it runs each text alone.

    Args:
        reply: The reply's JSON. Token level are `[n][1][tokens][dim]`, as the feature-extraction
            pipeline of transformers answers a list of n texts, and `[n][tokens][dim]`; the number
            of tokens may differ from text to text.
        pooling: `"mean"` of a text's tokens, or the first one, `"cls"`.

    Returns:
        `[n][dim]`, with None for a text whose tokens are no vectors of one length.

    Source:
        Reimers and Gurevych 2019, arXiv:1908.10084, section 3: the two poolings.
    """
    if not isinstance(reply, list) or not any(_depth(row) > 1 for row in reply):
        return reply
    return [_pooled(row[0] if _depth(row) > 2 and len(row) == 1 else row, pooling) for row in reply]


def _depth(row: object) -> int:
    """How many lists lie within each other, along the first entries."""
    depth = 0
    while isinstance(row, list):
        depth += 1
        row = row[0] if row else None
    return depth


def _pooled(tokens: Any, pooling: Pooling) -> list[float] | None:
    try:
        array = np.array(tokens)
        if array.dtype.kind in "US":  # numbers in quotes, which NumPy would read
            return None
        vectors = array.astype(np.float64)  # with NaN for null
    except (TypeError, ValueError, OverflowError):
        return None
    if vectors.ndim != 2 or not vectors.size:
        return None
    pooled: list[float] = (vectors[0] if pooling == "cls" else vectors.mean(axis=0)).tolist()
    return pooled
