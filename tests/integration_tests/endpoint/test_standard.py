"""LangChain's standard tests of embeddings, against a TEI."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from tests.tei_server import TEIServer


class _OnATEI:
    @pytest.fixture(autouse=True)
    def _running(self, server: TEIServer) -> None:
        self.server = server

    @property
    def embeddings_class(self) -> type[HuggingFaceEndpointEmbeddings]:
        return HuggingFaceEndpointEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"endpoint_url": self.server.url}


class TestHuggingFaceEndpointEmbeddingsUnit(_OnATEI, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"HUGGINGFACEHUB_API_TOKEN": "hf_from_the_environment"},
            {"model": "org/model"},
            {"huggingfacehub_api_token": "hf_from_the_environment", "model": "org/model"},
        )


class TestHuggingFaceEndpointEmbeddingsIntegration(_OnATEI, EmbeddingsIntegrationTests):
    pass
