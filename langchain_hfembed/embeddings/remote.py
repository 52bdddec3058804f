"""LangChain's four methods over one coroutine, which sends the texts away."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from langchain_core.embeddings import Embeddings

from langchain_hfembed.embeddings.base import check_not_empty, check_texts
from langchain_hfembed.http import background


class RemoteEmbeddings(Embeddings):
    """Dense embeddings from elsewhere: sync and async differ in how they wait, and in nothing."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents.

        Args:
            texts: The documents. Empty strings are refused, as servers refuse them.

        Returns:
            One vector of `dim` floats a text, in the order of the texts.

        Raises:
            InvalidInputError: If a text can't be sent, or the server refuses it; `.indices`.
            EmbeddingError: If the server fails; `.indices` are the texts concerned, `.completed`
                has the vectors of those that had succeeded.
        """
        return background.run(self._embed(self._checked(texts), is_query=False))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents; see `embed_documents`."""
        return await background.arun(self._embed(self._checked(texts), is_query=False))

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query, `dim` floats."""
        [vector] = background.run(self._embed(self._checked([text], "query"), is_query=True))
        return vector

    async def aembed_query(self, text: str) -> list[float]:
        """Vector of a query; see `embed_query`."""
        [vector] = await background.arun(self._embed(self._checked([text], "query"), is_query=True))
        return vector

    def _checked(self, texts: Sequence[str], name: str = "text") -> list[str]:
        """The texts, once it is sure that they can be sent; `name` is what to call one of them."""
        checked = check_texts(texts)
        check_not_empty(checked, name)
        return checked

    @abstractmethod
    async def _embed(self, texts: list[str], *, is_query: bool) -> list[list[float]]:
        """One vector a text."""
