"""What an engine is: it runs a model over a batch of texts, and says what comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.embeddings.tokenizer import TextTokenizer
from langchain_hfembed.vectors import FloatArray, View


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts as token ids, one after the other, without padding.

    Attributes:
        ids: Token ids of all texts, special tokens included, shape `(tokens,)`.
        lengths: Tokens of each text, shape `(n,)`.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Batch:
        """A batch of texts that are not empty."""
        return cls(
            np.concatenate([np.asarray(ids, np.int64) for ids in texts]),
            np.array([len(ids) for ids in texts], np.int64),
        )

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each text starts, shape `(n,)`."""
        return np.cumsum(self.lengths) - self.lengths


@dataclass(frozen=True, eq=False)
class BatchOutput:
    """What the model says of a batch, float32; None for a view that was not asked for.

    Attributes:
        dense: A vector a text, shape `(n, dim)`.
        token_weights: A weight a token, special tokens included, shape `(tokens,)`, 0 or more.
        token_vectors: A vector a token, shape `(tokens, colbert_dim)`.
    """

    dense: FloatArray | None
    token_weights: FloatArray | None
    token_vectors: FloatArray | None


class Engine(Protocol):
    """A loaded model with its heads and its tokenizer.

    Attributes:
        name: What it runs on, for messages.
        tokenizer: The model's.
        max_positions: The most tokens a text can have.
        max_batch_tokens: Tokens a batch should have at most, padding included.
    """

    name: str
    tokenizer: TextTokenizer
    max_positions: int
    max_batch_tokens: int

    def start(self, batch: Batch, views: Collection[View]) -> Callable[[], BatchOutput]:
        """Run the model once.

        Args:
            batch: The texts, the longest first.
            views: What to compute.

        Returns:
            What waits for the output. On a GPU, work goes on meanwhile.

        Raises:
            MemoryError: If memory does not suffice.
        """
        ...
