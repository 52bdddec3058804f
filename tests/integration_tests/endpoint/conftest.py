"""No token and no proxy of this machine's, short waits, and clients that are closed in the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest

from langchain_hfembed import HuggingFaceEndpointEmbeddings
from tests.integration_tests.endpoint.helpers import Connect, Embed, embed_async, embed_sync
from tests.tei_server import TEIServer

_TOKENS = ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of certifi's authorities; to read all of them takes 60 ms a client."""
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("tls") / "one.pem"
    path.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, one_authority: Path) -> None:
    """Neither a token nor a proxy is found, whoever runs the tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(one_authority))
    for name in list(os.environ):
        if name in _TOKENS or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent/token")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 ms before another attempt, where the server does not say."""
    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", lambda state: 0.01)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients of a server, and closes them in the end."""
    made: list[HuggingFaceEndpointEmbeddings] = []

    def make(server: TEIServer | None = None, **parameters: Any) -> HuggingFaceEndpointEmbeddings:
        if server is not None:
            parameters.setdefault("endpoint_url", server.url)
        made.append(HuggingFaceEndpointEmbeddings(**parameters))
        return made[-1]

    yield make
    for embeddings in made:
        embeddings.close()


@pytest.fixture
def server() -> Iterator[TEIServer]:
    """A TEI without special limits."""
    with TEIServer() as running:
        yield running


@pytest.fixture(params=[embed_sync, embed_async], ids=["sync", "async"])
def embed(request: pytest.FixtureRequest) -> Embed:
    """`embed_documents`, or `aembed_documents` on a loop of its own."""
    chosen: Embed = request.param
    return chosen
