"""What the page searches: texts that were pasted, or an index; and by which model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_hfembed.commands.opening import open_model
from langchain_hfembed.embeddings.endpoint_base import is_url
from langchain_hfembed.embeddings.env import endpoint_from_env, local_model, wants_endpoint
from langchain_hfembed.errors import InvalidInputError
from langchain_hfembed.vectorstore import HybridVectorStore

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_hfembed.embeddings.base import HybridEncoder

_TOPICS = ("errors", "licences", "retrieval")


def example_texts() -> str:
    """Some of the demo's passages, one a line, on which the views disagree."""
    from langchain_hfembed.demo import demo_documents

    return "\n".join(
        document.page_content
        for document in demo_documents()
        if document.metadata["topic"] in _TOPICS
    )


def model_from_env(env: Mapping[str, Any]) -> Embeddings | HybridEncoder:
    """The model that the environment names: an endpoint, or on this machine, with all its views.

    Args:
        env: The variables; see `embeddings_from_env`.

    Raises:
        InvalidInputError: If a variable is missing, or has no meaning; the message names it.
    """
    return endpoint_from_env(env) if wants_endpoint(env) else open_model(local_model(env))


def typed_model(name: str) -> Embeddings | HybridEncoder:
    """A model that somebody typed on the page, who may be anybody who reaches it.

    Args:
        name: A model id of the Hub, a folder, or `demo`.

    Raises:
        InvalidInputError: If it is a server, which could collect texts and tokens.
    """
    if is_url(name):
        raise InvalidInputError(
            f"{name}: servers are named when the page is started: hfembed ui --model {name}, or "
            "HF_ENDPOINT_URL in .env"
        )
    return open_model(name)


class PastedTexts:
    """A store in memory that follows a list of texts; a text that stays is not embedded again.

    Args:
        model: The encoder.

    Attributes:
        store: The store.
        version: How often the texts have changed.
    """

    def __init__(self, model: Embeddings | HybridEncoder) -> None:
        self.store = HybridVectorStore(model)
        self.version = 0
        self._ids: dict[str, str] = {}
        self._added = 0

    def update(self, pasted: str) -> int:
        """Hold the lines of a text, each once, and nothing else.

        Args:
            pasted: The lines; empty ones are passed over.

        Returns:
            How many texts there are.
        """
        texts = list(dict.fromkeys(filter(None, map(str.strip, pasted.splitlines()))))
        if gone := self._ids.keys() - {*texts}:
            self.store.delete(sorted(self._ids.pop(text) for text in gone))
            self.version += 1
        if new := [text for text in texts if text not in self._ids]:
            self._add(new)
            self.version += 1
        return len(texts)

    def _add(self, texts: list[str]) -> None:
        if not self._ids:
            self._added = 0
        ids = [f"text {self._added + at}" for at in range(1, len(texts) + 1)]
        try:
            self.store.add_texts(texts, ids=ids)
        except BaseException:
            self.store.delete(ids)  # the batches before the one that failed
            raise
        self._added += len(texts)
        self._ids |= dict(zip(texts, ids, strict=True))
