"""What an engine is: it runs a model over a batch of texts, and says what comes out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.embeddings.tokenizer import TextTokenizer
from langchain_hfembed.vectors import FloatArray, View

_CACHED_BYTES = 12 << 20
_FLOAT32_BYTES = 4
# PyTorch on GPUs, on Linux and on Windows; ONNX Runtime.
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("failed to allocate memory", "bad allocation", "bad_alloc"),
)


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

    @property
    def texts(self) -> NDArray[np.int64]:
        """Which text each token is of, shape `(tokens,)`."""
        return np.repeat(np.arange(len(self.lengths), dtype=np.int64), self.lengths)

    @property
    def is_token(self) -> NDArray[np.bool_]:
        """Where a text has a token, shape `(n, longest)`; elsewhere there would be padding."""
        return np.arange(self.lengths.max()) < self.lengths[:, None]

    @property
    def places(self) -> NDArray[np.int64]:
        """The token at each place, shape `(n, longest)`; the first one where there is none."""
        is_token = self.is_token
        places = np.zeros(is_token.shape, np.int64)
        places[is_token] = np.arange(len(self.ids))
        return places


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


def max_cached_tokens(config: Any) -> int:
    """Tokens of a batch on a CPU, at most.

    Their widest states, those within the feed-forward network, are then what the cache holds, and
    what the allocator keeps instead of asking the system for new pages at each layer.

    Args:
        config: Of a model of transformers.
    """
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    return _CACHED_BYTES // (_FLOAT32_BYTES * int(inner))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an engine ran out of memory, of which mostly the text alone tells."""
    return type(error).__name__ == "OutOfMemoryError" or any(
        phrase in str(error).lower() for phrase in _OUT_OF_MEMORY
    )


class Engine(Protocol):
    """A loaded model with its heads and its tokenizer.

    Attributes:
        device_name: What it runs on, for messages.
        tokenizer: The model's.
        max_positions: The most tokens a text can have.
        max_batch_tokens: Tokens a batch should have at most, padding included.
    """

    device_name: str
    tokenizer: TextTokenizer
    max_positions: int
    max_batch_tokens: int

    def start(self, batch: Batch, views: Collection[View]) -> Callable[[], BatchOutput]:
        """Run the model once.

        Args:
            batch: The texts.
            views: What to compute.

        Returns:
            What waits for the output. On a GPU, work goes on meanwhile.

        Raises:
            MemoryError: If memory does not suffice.
        """
        ...
