"""What all tests share: no network, repeatable examples, two checkpoints built once a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from langchain_hfembed.embeddings.engines import processor
from tests.checkpoints import (
    build_colbert_checkpoint,
    build_minilm_checkpoint,
    build_splade_checkpoint,
    build_xlm_roberta_checkpoint,
)

# Read when huggingface_hub is imported, hence here and not in a fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
# A tokenizer that has used its threads warns when a test forks.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Some tests press Ctrl-C, which programs that a shell starts in the background ignore otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the first example may pay for an import of seconds. In CI the same examples each
# time, so that a change never fails for another change's bug.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def real_processor() -> Iterator[Callable[[], bool]]:
    """What it says of bfloat16; meanwhile all have none, so that a test means the same on each."""
    before, processor.computes_bfloat16 = processor.computes_bfloat16, lambda: False
    yield before
    processor.computes_bfloat16 = before


@pytest.fixture(scope="session")
def xlmr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLM-RoBERTa checkpoint in BGE-M3's format. Read only: all tests share it."""
    return build_xlm_roberta_checkpoint(tmp_path_factory.mktemp("xlmr"), pooling="cls")


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 in BGE-M3's format. Read only: all tests share it."""
    return build_minilm_checkpoint(tmp_path_factory.mktemp("minilm") / "model")


@pytest.fixture(scope="session")
def splade_folder(xlmr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SPLADE model. Read only: all tests share it."""
    return build_splade_checkpoint(tmp_path_factory.mktemp("splade"), xlmr_folder)


@pytest.fixture(scope="session")
def colbert_folder(xlmr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ColBERT. Read only: all tests share it."""
    return build_colbert_checkpoint(tmp_path_factory.mktemp("colbert"), xlmr_folder)
