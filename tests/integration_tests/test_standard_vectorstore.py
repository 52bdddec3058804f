"""LangChain's standard tests of vector stores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_hfembed import HybridVectorStore, ReciprocalRankFusion
from tests.encoders import HashEncoder


class StandardTests(VectorStoreIntegrationTests):
    """A store that starts empty; subclasses say which."""

    @abstractmethod
    def make_store(self, folder: Path) -> HybridVectorStore:
        """An empty store."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:  # type: ignore[override]
        store = self.make_store(tmp_path)
        yield store
        store.close()


class TestPlainEmbeddingsInMemory(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(self.get_embeddings())


class TestPlainEmbeddingsInAFile(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(self.get_embeddings(), path=folder / "index.db")


class TestThreeViewsInMemory(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(HashEncoder())


class TestThreeViewsInAFileWithRankFusion(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        fusion: Any = ReciprocalRankFusion()
        return HybridVectorStore(HashEncoder(), path=folder / "index.db", fusion=fusion)


class TestSparseAlone(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(HashEncoder(("sparse",)))


class TestMultiVectorAlone(StandardTests):
    def make_store(self, folder: Path) -> HybridVectorStore:
        return HybridVectorStore(HashEncoder(("multi_vector",)))
