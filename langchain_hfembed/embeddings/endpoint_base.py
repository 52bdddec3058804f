"""What every encoder behind an endpoint has: its model's identity, and its prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic import model_validator
from typing_extensions import Self

from langchain_hfembed.http import background
from langchain_hfembed.http.client import EndpointClient
from langchain_hfembed.http.endpoint import Endpoint


class EndpointEncoder(EndpointClient):
    """A model behind an endpoint, and what is put in front of queries and of documents.

    Attributes:
        model: Its name; beside a URL, the model that should be there.
        query_prompt_name: A prompt of the model for queries, by its name on the server.
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries, such as E5's `"query: "`.
        document_prompt: Likewise for documents.

    Raises:
        ValueError: If both kinds of prompt are given for one side.
    """

    model: str | None = None
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        for side in ("query", "document"):
            if getattr(self, f"{side}_prompt") and getattr(self, f"{side}_prompt_name"):
                raise ValueError(
                    f"{side}_prompt and {side}_prompt_name would both be put in front; give one"
                )
        return self

    @property
    def model_name(self) -> str:
        """What to call the model in messages: its name, else the URL."""
        # Of a URL, not what follows the path: a key may be in it.
        return (self.model or self.endpoint_url or "").partition("?")[0]

    @property
    def fingerprint(self) -> str:
        """Differs with the model, and with what else changes the vectors of documents.

        The model is `model`, or else what `/info` says, whatever the URL. Without `/info`, or where
        that names a folder, it is the URL: give `model` if it may move.

        Raises:
            EmbeddingError: If the server is to be asked, and can't be reached.
        """
        model = self.model
        if model is None or is_url(model):
            model = background.run(self._ask(_served_model))
        identity = (
            model,
            self.document_prompt or "",
            self.document_prompt_name,
            *self._changes_vectors(),
        )
        return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]

    def _changes_vectors(self) -> tuple[Any, ...]:
        """Parameters of a subclass that change the vectors of documents."""
        return ()

    def _prompt_name(self, *, is_query: bool) -> str | None:
        """The prompt that the server shall put in front."""
        return self.query_prompt_name if is_query else self.document_prompt_name

    def _prompted(self, texts: Sequence[str], *, is_query: bool) -> list[str]:
        """The texts with what is put in front of them here."""
        prompt = (self.query_prompt if is_query else self.document_prompt) or ""
        return [prompt + text for text in texts]


def is_url(name: str) -> bool:
    """Whether a model's name is a server's URL."""
    return name.startswith(("http://", "https://"))


async def _served_model(endpoint: Endpoint) -> str:
    """What the server calls its model, or where it is."""
    info = await endpoint.info()
    # A folder is no name: on Inference Endpoints every model lies in /repository.
    if info is None or info.model_id.startswith("/"):
        return endpoint.where
    return info.model_id
