"""What the endpoint's tests share: texts, how they are sent, and how a server's record is read."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from langchain_hfembed.errors import EmbeddingError
from tests.tei_contract import hash_vectors
from tests.tei_faults import Entry
from tests.tei_server import TEIServer

Vectors = list[list[float]]
Embed = Callable[[HuggingFaceEndpointEmbeddings, list[str]], Vectors]
Connect = Callable[..., HuggingFaceEndpointEmbeddings]

# Of many lengths, so that the order of sending is not the order of the list.
TEXTS = [f"text {number}" + " word" * (number * 7 % 23) for number in range(1000)]
VECTORS = hash_vectors(TEXTS)
POSITION = {text: position for position, text in enumerate(TEXTS)}


def embed_sync(embeddings: HuggingFaceEndpointEmbeddings, texts: list[str]) -> Vectors:
    return embeddings.embed_documents(texts)


def embed_async(embeddings: HuggingFaceEndpointEmbeddings, texts: list[str]) -> Vectors:
    return asyncio.run(embeddings.aembed_documents(texts))


def posts(server: TEIServer) -> list[Entry]:
    """Requests with texts, in the order of their arrival."""
    return [entry for entry in server.record if entry.method == "POST"]


def sent_twice(entries: Iterable[Entry]) -> list[str]:
    """Bodies that came more than once."""
    counts = Counter(json.dumps(entry.json) for entry in entries)
    return [body for body, count in counts.items() if count > 1]


def in_flight(entries: list[Entry]) -> list[int]:
    """How many requests were under way when each one came, itself included."""
    return [
        sum(other.started <= entry.started < (other.ended or float("inf")) for other in entries)
        for entry in entries
    ]


def positions(entries: Iterable[Entry]) -> set[int]:
    """Positions in TEXTS of what requests held."""
    return {POSITION[text] for entry in entries for text in entry.texts}


def vectors_at(wanted: Iterable[int]) -> dict[int, list[float]]:
    """What `.completed` must be, if the texts of these positions had succeeded."""
    return {position: VECTORS[position] for position in sorted(wanted)}


def outcome(
    embed: Embed, embeddings: HuggingFaceEndpointEmbeddings, texts: list[str] = TEXTS
) -> Vectors | EmbeddingError:
    """What came of it: vectors, or our error."""
    try:
        return embed(embeddings, texts)
    except EmbeddingError as error:
        return error


def eventually(condition: Callable[[], Any], seconds: float = 5) -> bool:
    """Whether it comes true in time: a server hears of a closed connection a moment later."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
