"""What tests against servers share."""

from __future__ import annotations

import pytest


@pytest.fixture
def quick_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait for nothing, and no token is found on this machine."""
    monkeypatch.setattr("langchain_hfembed.http.retry._backoff", lambda state: 0.0)
    for name in ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent/token")
