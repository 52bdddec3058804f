"""all-MiniLM-L6-v2, loaded once for all tests of this folder: through us, and behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.embeddings import Embeddings

from langchain_hfembed import (
    BGEM3Embeddings,
    HuggingFaceEmbeddings,
    HuggingFaceEndpointEmbeddings,
)
from tests.tei_server import TEIServer


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other ten times longer than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def loaded_bge_m3(minilm_folder: Path) -> BGEM3Embeddings:
    loaded = BGEM3Embeddings(model=str(minilm_folder), device="cpu")
    loaded.embed_query("load")
    return loaded


@pytest.fixture
def bge_m3(loaded_bge_m3: BGEM3Embeddings) -> BGEM3Embeddings:
    """Of which no adapter has been made so far; it shares the weights."""
    ours = BGEM3Embeddings(model=loaded_bge_m3.model_name, device="cpu", batch_size=64)
    ours._checkpoints, ours._engines = loaded_bge_m3._checkpoints, loaded_bge_m3._engines
    return ours


@pytest.fixture(scope="package")
def local(minilm_folder: Path) -> HuggingFaceEmbeddings:
    return HuggingFaceEmbeddings(model=str(minilm_folder), model_kwargs={"device": "cpu"})


@pytest.fixture
def server(local: HuggingFaceEmbeddings) -> Iterator[TEIServer]:
    with TEIServer(embed=local.embed_documents) as server:
        yield server


@pytest.fixture
def endpoint(server: TEIServer) -> Iterator[HuggingFaceEndpointEmbeddings]:
    with HuggingFaceEndpointEmbeddings(endpoint_url=server.url) as endpoint:
        yield endpoint


@pytest.fixture(params=["bge_m3", "local", "endpoint"])
def embeddings(request: pytest.FixtureRequest) -> Embeddings:
    """Each of our dense embeddings, with the same vectors."""
    ours: Embeddings = request.getfixturevalue(request.param)
    return ours
