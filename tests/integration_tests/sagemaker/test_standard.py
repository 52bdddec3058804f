"""LangChain's standard tests, and moto's SageMaker, which others wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_hfembed import SageMakerEndpointEmbeddings
from tests.integration_tests.sagemaker.conftest import Connect
from tests.sagemaker_server import ENDPOINT, SageMakerServer


class _OnAnEndpoint:
    @pytest.fixture(autouse=True)
    def _running(self, server: SageMakerServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server.url)

    @property
    def embeddings_class(self) -> type[SageMakerEndpointEmbeddings]:
        return SageMakerEndpointEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"endpoint_name": ENDPOINT, "region_name": "us-east-1"}


class TestSageMakerEndpointEmbeddingsUnit(_OnAnEndpoint, EmbeddingsUnitTests):
    pass


class TestSageMakerEndpointEmbeddingsIntegration(_OnAnEndpoint, EmbeddingsIntegrationTests):
    pass


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
    yield url
    server.stop()


def test_moto_answers_with_what_it_was_told(moto: str, connect: Connect) -> None:
    vectors = [[0.6, 0.8], [1.0, 0.0]]
    results = {"results": [{"Body": json.dumps(vectors), "ContentType": "application/json"}]}
    told = httpx.post(
        f"{moto}/moto-api/static/sagemaker/endpoint-results",
        json={"account_id": "123456789012", "region": "us-east-1", **results},
    )
    told.raise_for_status()
    assert connect().embed_documents(["a", "b"]) == vectors
