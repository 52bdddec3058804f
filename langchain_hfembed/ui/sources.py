"""What the page searches: texts that were pasted, or an index; and by which model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_hfembed.commands.opening import open_model
from langchain_hfembed.embeddings.env import embeddings_from_env, local_model_from_env
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
    local = local_model_from_env(env)
    return embeddings_from_env(env) if local is None else open_model(local)


class PastedTexts:
    """A store in memory that follows a list of texts; a text that stays is not embedded again.

    Args:
        model: The encoder.

    Attributes:
        store: The store.
    """

    def __init__(self, model: Embeddings | HybridEncoder) -> None:
        self.store = HybridVectorStore(model)
        self._ids: set[str] = set()

    def update(self, pasted: str) -> int:
        """Hold the lines of a text, each once, and nothing else.

        Args:
            pasted: The lines; empty ones are passed over.

        Returns:
            How many texts there are.
        """
        texts = {_id(line): line for line in map(str.strip, pasted.splitlines()) if line}
        if gone := self._ids - texts.keys():
            self.store.delete(sorted(gone))
            self._ids -= gone
        if new := {id_: text for id_, text in texts.items() if id_ not in self._ids}:
            self.store.add_texts(list(new.values()), ids=list(new))
            self._ids |= new.keys()
        return len(texts)


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
