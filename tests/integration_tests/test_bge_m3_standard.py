"""LangChain's standard tests of embeddings, on a random checkpoint and offline."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_hfembed import BGEM3Embeddings


class _OnTheRandomCheckpoint:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, xlmr_folder):
        self.folder = xlmr_folder

    @property
    def embeddings_class(self):
        return BGEM3Embeddings

    @property
    def embedding_model_params(self):
        return {"model": str(self.folder)}


class TestBGEM3EmbeddingsUnit(_OnTheRandomCheckpoint, EmbeddingsUnitTests):
    pass


class TestBGEM3EmbeddingsIntegration(_OnTheRandomCheckpoint, EmbeddingsIntegrationTests):
    pass
