"""Splits texts into requests, sends them, and collects the results."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from langchain_hfembed.errors import EmbeddingError, InvalidInputError, InvalidResponseError
from langchain_hfembed.http.failures import Refusal
from langchain_hfembed.http.gate import NotSent, is_stale
from langchain_hfembed.http.tei import text_bytes

T = TypeVar("T")

DEFAULT_BATCH_SIZE = 32
MAX_BODY_BYTES = 1_500_000  # TEI takes 2,000,000 unless told otherwise, and does not tell


@dataclass
class Limits:
    """How large a request may be; lowered by what a server refuses, and kept.

    Attributes:
        batch_size: Texts a request.
        body_bytes: Bytes of its texts.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    body_bytes: int = MAX_BODY_BYTES

    def batches(self, positions: Iterable[int], sizes: Sequence[int]) -> Iterator[list[int]]:
        """Cut positions into requests.

        Args:
            positions: Of texts, in the order in which they shall be sent.
            sizes: Bytes of all texts.

        Yields:
            Positions of the texts of a request; one alone may be larger than allowed.
        """
        batch: list[int] = []
        room = self.body_bytes
        for position in positions:
            if batch and (len(batch) >= self.batch_size or sizes[position] > room):
                yield batch
                batch, room = [], self.body_bytes
            batch.append(position)
            room -= sizes[position]
        if batch:
            yield batch


class BatchRun(Generic[T]):
    """Sends texts in batches until all have a result, or one can't.

    After a failure no new batch starts; those in flight finish, and what they bring is kept.

    Args:
        texts: The texts.
        limits: Of a request; what is learned goes back there.
        send: Sends one request, and returns one result a text.

    Attributes:
        results: What there is so far, by position.
    """

    def __init__(
        self,
        texts: Sequence[str],
        limits: Limits,
        send: Callable[[list[str]], Awaitable[list[T]]],
    ) -> None:
        self._texts = texts
        self._limits = limits
        self._send = send
        self._where = ""
        self._sizes = [text_bytes(text) for text in texts]
        # Texts of one length share a batch, so that the server pads little.
        longest_first = sorted(range(len(texts)), key=lambda position: -self._sizes[position])
        self._queue = deque([longest_first] if texts else [])
        self._failures: list[EmbeddingError] = []
        self.results: dict[int, T] = {}

    async def run(self, concurrency: int, where: str, advance: Callable[[int], object]) -> list[T]:
        """Send everything.

        Args:
            concurrency: Requests under way at once.
            where: The URL or model, for messages.
            advance: Told how many texts a request has brought home.

        Raises:
            EmbeddingError: The first failure; `.indices` are those of all failures.
        """
        self._where = where
        self._advance = advance
        running: set[asyncio.Task[None]] = set()
        try:
            while running or (self._queue and not self._failures):
                while self._queue and not self._failures and len(running) < concurrency:
                    running.add(asyncio.create_task(self._try(self._next_batch())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # what is no EmbeddingError is a bug, and must be seen
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if self._failures:
            error = self._failures[0]
            error.indices = tuple(sorted({i for e in self._failures for i in e.indices}))
            raise error
        return [self.results[position] for position in range(len(self._texts))]

    def _next_batch(self) -> list[int]:
        # Cut again: the limits may have been lowered since it was queued.
        batch, *rest = self._limits.batches(self._queue.popleft(), self._sizes)
        self._queue.extendleft(reversed(rest))
        return batch

    async def _try(self, batch: list[int]) -> None:
        # Set for this task alone, whose context is its own.
        is_stale.set(lambda: bool(self._failures) or len(batch) > self._limits.batch_size)
        try:
            results = await self._send([self._texts[position] for position in batch])
        except NotSent:
            self._queue.appendleft(batch)
        except Refusal as refusal:
            self._split_or_fail(batch, refusal)
        except InvalidInputError as error:
            self._fail(error, [])  # raised before sending: the options are at fault, no text
        except InvalidResponseError as error:
            positions = [batch[i] for i in error.indices] or batch
            which = f"text {min(positions)}: " if len(positions) < len(batch) else ""
            self._fail(InvalidResponseError(f"{which}{self._where}: {error}"), positions)
        except EmbeddingError as error:
            self._fail(error, batch)
        else:
            self.results.update(zip(batch, results, strict=True))
            self._advance(len(batch))

    def _split_or_fail(self, batch: list[int], refusal: Refusal) -> None:
        """Put smaller batches in the place of one that was refused, down to the text at fault."""
        failure, limits = refusal.failure, self._limits
        if failure.kind not in ("too_large", "invalid"):
            self._fail(refusal.as_error(self._where), batch)
        elif failure.blames_request:
            self._fail(refusal.as_error(self._where), [])
        elif len(batch) == 1:
            self._fail(refusal.as_error(f"text {batch[0]}: {self._where}"), batch)
        elif failure.batch_limit is not None and failure.batch_limit < len(batch):
            limits.batch_size = min(limits.batch_size, max(1, failure.batch_limit))
            self._queue.appendleft(batch)
        else:
            if failure.kind == "too_large":
                sent = sum(self._sizes[position] for position in batch)
                limits.body_bytes = min(limits.body_bytes, max(1, sent // 2))
            half = (len(batch) + 1) // 2
            self._queue.extendleft([batch[half:], batch[:half]])

    def _fail(self, error: EmbeddingError, positions: Sequence[int]) -> None:
        error.indices = tuple(positions)
        self._failures.append(error)
