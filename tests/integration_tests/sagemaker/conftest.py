"""Credentials of no account, short waits, and clients that are closed in the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_hfembed import SageMakerEndpointEmbeddings
from tests.sagemaker_server import ENDPOINT, SageMakerServer

Connect = Callable[..., SageMakerEndpointEmbeddings]


@pytest.fixture(autouse=True)
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that opens nothing; neither files nor a role of this machine's are looked for."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key-of-tests")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 ms before another attempt."""
    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", lambda state: 0.01)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes clients of a server, and closes them in the end."""
    made: list[SageMakerEndpointEmbeddings] = []

    def make(server: SageMakerServer | None = None, **given: Any) -> SageMakerEndpointEmbeddings:
        if server is not None:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server.url)
        if "client" not in given:
            given.setdefault("region_name", "us-east-1")
        made.append(SageMakerEndpointEmbeddings(**{"endpoint_name": ENDPOINT, **given}))
        return made[-1]

    yield make
    for embeddings in made:
        embeddings.close()


@pytest.fixture
def server() -> Iterator[SageMakerServer]:
    """An endpoint with a TEI."""
    with SageMakerServer() as running:
        yield running
