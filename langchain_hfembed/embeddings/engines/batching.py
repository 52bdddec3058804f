"""Texts into batches and back: by length, within a budget of tokens, on one engine or several."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.embeddings.engines.base import Batch, BatchOutput, Engine
from langchain_hfembed.errors import EmbeddingError
from langchain_hfembed.vectors import FloatArray, HybridEmbedding, SparseVector, View


def encode(
    engines: Sequence[Engine],
    texts: Sequence[Sequence[int]],
    views: Collection[View],
    *,
    batch_size: int,
    on_done: Callable[[int], object],
) -> list[HybridEmbedding]:
    """The views of texts, in their order.

    Args:
        engines: The same model once or several times; they share the batches.
        texts: Token ids of each text, special tokens included.
        views: What to compute.
        batch_size: Texts a batch, at most.
        on_done: Called with how many texts have just been done.

    Raises:
        EmbeddingError: If memory does not suffice for one text alone, or an output is not finite;
            `.indices` names the text, `.completed` has the dense vectors of those that were done.
    """
    work = _Work(engines, texts, views, batch_size, on_done)
    if len(engines) == 1:
        work.run(engines[0])
    else:
        with ThreadPoolExecutor(len(engines)) as threads:
            started = [threads.submit(work.run, engine) for engine in engines]
            try:
                for finished in started:
                    finished.result()
            except BaseException:  # Ctrl-C too, which only this thread hears of
                work.stop()
                raise
    return [work.results[position] for position in range(len(texts))]


class _Work:
    """Batches that wait, and the results of those that are done."""

    def __init__(
        self,
        engines: Sequence[Engine],
        texts: Sequence[Sequence[int]],
        views: Collection[View],
        batch_size: int,
        on_done: Callable[[int], object],
    ) -> None:
        self._texts, self._views, self._batch_size = texts, views, batch_size
        self._on_done = on_done
        self._max_tokens = min(engine.max_batch_tokens for engine in engines)
        # Longest first: what shares a batch then needs little padding, and if memory is short,
        # that shows at once.
        order = sorted(range(len(texts)), key=lambda position: -len(texts[position]))
        self._waiting = deque(order)
        self._lock = threading.Lock()
        self._is_stopped = False
        self.results: dict[int, HybridEmbedding] = {}

    def run(self, engine: Engine) -> None:
        """Work until nothing waits; one batch is read out while a GPU computes the next."""
        running: tuple[list[int], Batch, Callable[[], BatchOutput]] | None = None
        try:
            while positions := self._take():
                batch = Batch.of([self._texts[position] for position in positions])
                try:
                    started = engine.start(batch, self._views)
                except MemoryError:
                    started = None
                if running is not None:
                    self._finish(engine, *running)
                running = None if started is None else (positions, batch, started)
                if started is None:
                    self._put_back(positions, engine)
            if running is not None:
                self._finish(engine, *running)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let every engine end with the batch that it has."""
        self._is_stopped = True

    def _take(self) -> list[int]:
        """The next batch, empty where there is none."""
        positions: list[int] = []
        longest = 0
        with self._lock:
            while self._waiting and len(positions) < self._batch_size and not self._is_stopped:
                longest = max(longest, len(self._texts[self._waiting[0]]))
                if positions and longest * (len(positions) + 1) > self._max_tokens:
                    break
                positions.append(self._waiting.popleft())
        return positions

    def _put_back(self, positions: list[int], engine: Engine) -> None:
        longest = max(len(self._texts[position]) for position in positions)
        if len(positions) == 1:
            raise self._failed(
                f"text {positions[0]} ({longest} tokens) does not fit into the memory of "
                f"{engine.device_name}. Lower max_length, take "
                'dtype="float16" on a GPU, or device="cpu"',
                positions[0],
            )
        with self._lock:
            # What was too much stays too much for the rest of this call.
            self._max_tokens = min(self._max_tokens, len(positions) * longest // 2)
            self._waiting.extendleft(reversed(positions))

    def _finish(
        self, engine: Engine, positions: list[int], batch: Batch, wait: Callable[[], BatchOutput]
    ) -> None:
        parts = _per_text(batch, wait(), engine.tokenizer.special_ids)
        for position, (dense, sparse, multi_vector) in zip(positions, parts, strict=True):
            try:
                embedding = HybridEmbedding(
                    dense, None if sparse is None else SparseVector(*sparse), multi_vector
                )
            except ValueError as error:
                raise self._failed(f"text {position}: {error}", position) from error
            self.results[position] = embedding
        with self._lock:  # a progress bar is no thing for several threads
            self._on_done(len(positions))

    def _failed(self, message: str, index: int) -> EmbeddingError:
        completed = {
            position: embedding.dense.tolist()
            for position, embedding in self.results.copy().items()
            if embedding.dense is not None
        }
        return EmbeddingError(message, indices=[index], completed=completed)


_Weights = tuple[NDArray[np.int32], FloatArray]


def _per_text(
    batch: Batch, output: BatchOutput, special_ids: NDArray[np.int64]
) -> list[tuple[FloatArray | None, _Weights | None, FloatArray | None]]:
    """A batch's output, cut up: dense vector, lexical weights and token vectors of each text."""
    nothing = [None] * len(batch.lengths)
    dense = nothing if output.dense is None else output.dense
    sparse = (
        nothing
        if output.token_weights is None
        else lexical_weights(batch, output.token_weights, special_ids)
    )
    multi_vector = (
        nothing
        if output.token_vectors is None
        # The first token is [CLS], whose vector is the dense one's.
        else [rows[1:] for rows in np.split(output.token_vectors, batch.starts[1:])]
    )
    return list(zip(dense, sparse, multi_vector, strict=True))


def lexical_weights(
    batch: Batch, weights: FloatArray, special_ids: NDArray[np.int64]
) -> list[_Weights]:
    """The largest weight of each token of a text, where it is above zero.

    Args:
        batch: The texts.
        weights: A weight a token, shape `(tokens,)`.
        special_ids: Ids of the tokens that stand for no text.

    Returns:
        For each text its token ids, increasing, and their weights.
    """
    # Not `weights > 0`, which would drop NaN, the sign of a model that overflows.
    # Not `np.isin`, which sorts, and takes a query as long as all the rest.
    kept = ~(weights <= 0) & ~(batch.ids[:, None] == special_ids).any(axis=1)
    # Text and token as one number, so that one sort serves all texts.
    keys = (batch.texts[kept] << 32) | batch.ids[kept]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[kept][order]
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    largest = np.maximum.reduceat(weights, firsts) if len(firsts) else weights
    tokens = keys[firsts]
    ends = np.searchsorted(tokens, np.arange(1, len(batch.lengths), dtype=np.int64) << 32)
    indices = (tokens & 0xFFFFFFFF).astype(np.int32)
    return list(zip(np.split(indices, ends), np.split(largest, ends), strict=True))
