"""What encoders behind an endpoint put in front of texts: here, or by its name on the server."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, model_validator
from typing_extensions import Self


class EndpointPrompts(BaseModel):
    """Prompts for queries and for documents.

    Attributes:
        query_prompt_name: A prompt of the model for queries, by its name on the server.
        document_prompt_name: Likewise for documents.
        query_prompt: Text put in front of queries, such as E5's `"query: "`.
        document_prompt: Likewise for documents.

    Raises:
        ValueError: If both kinds are given for one side.
    """

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

    def _prompt_name(self, *, is_query: bool) -> str | None:
        """The prompt that the server shall put in front."""
        return self.query_prompt_name if is_query else self.document_prompt_name

    def _prompted(self, texts: Sequence[str], *, is_query: bool) -> list[str]:
        """The texts with what is put in front of them here."""
        prompt = (self.query_prompt if is_query else self.document_prompt) or ""
        return [prompt + text for text in texts]
