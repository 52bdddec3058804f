"""LangChain's standard tests of retrievers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_hfembed import HybridRetriever, HybridVectorStore
from tests.encoders import HashEncoder

DOCUMENTS = [Document(f"document {n} about {what}") for n, what in enumerate(["cats", "dogs"] * 3)]


class StandardTests(RetrieversIntegrationTests):
    """A retriever over six documents; subclasses say which."""

    store: HybridVectorStore

    @pytest.fixture(autouse=True)
    def filled_store(self, tmp_path: Path) -> Iterator[None]:
        self.store = self.make_store(tmp_path)
        self.store.add_documents(DOCUMENTS)
        yield
        self.store.close()

    @abstractmethod
    def make_store(self, folder: Path) -> HybridVectorStore:
        """An empty store."""

    @property
    def retriever_constructor(self) -> type[HybridRetriever]:
        return HybridRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "which document is about cats?"

    async def test_ainvoke_takes_k_too(self, retriever: HybridRetriever) -> None:
        """The standard tests pass k to invoke() alone."""
        assert len(await retriever.ainvoke(self.retriever_query_example, k=1)) == 1


class TestPlainEmbeddingsInMemory(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(DeterministicFakeEmbedding(size=6))


class TestThreeViewsInAFile(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(HashEncoder(), path=folder / "index.db")
