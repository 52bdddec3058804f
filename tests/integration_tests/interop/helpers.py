"""A small corpus, and what counts how often a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.embeddings import Embeddings

from langchain_hfembed import BGEM3Embeddings

TEXTS = [
    "Seoul is the capital of Korea.",
    "Cats sleep in the sun most of the day.",
    "HTTP 429 says that a client has sent too many requests.",
    "The heart pumps blood through the body.",
    "A violin has four strings and is played with a bow.",
    "Bread is baked from flour, water, salt and yeast.",
]
ANSWERS = {
    "What is the capital city of Korea?": TEXTS[0],
    "Where do cats like to rest?": TEXTS[1],
    "too many requests": TEXTS[2],
    "Which organ moves the blood?": TEXTS[3],
    "string instruments": TEXTS[4],
    "How do I make bread?": TEXTS[5],
}


class Counted(Embeddings):
    """Remembers the texts that reach the embeddings behind it."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.documents: list[str] = []
        self.queries: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents += texts
        return self.embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return self.embeddings.embed_query(text)


@contextmanager
def forward_passes(embeddings: BGEM3Embeddings) -> Iterator[list[int]]:
    """The number of texts in each forward pass of the model, as they happen."""
    sizes: list[int] = []
    hook = embeddings._engines()[0].encoder.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0].lengths))
    )
    try:
        yield sizes
    finally:
        hook.remove()
