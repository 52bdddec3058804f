"""The encoder of a checkpoint, as transformers loads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from langchain_hfembed.embeddings.checkpoint import Checkpoint
from langchain_hfembed.errors import EmbeddingError


def load_model(checkpoint: Checkpoint) -> Any:
    """On the CPU, in float32."""
    from transformers import AutoModel

    with _no_progress_bar():
        model = AutoModel.from_pretrained(checkpoint.folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def max_positions(model: Any) -> int:
    """The most tokens a text can have; RoBERTa's family counts from `padding_idx + 1`."""
    table = getattr(model.embeddings, "position_embeddings", None)
    if table is None:
        raise EmbeddingError(f"{type(model).__name__} has no table of positions; unsupported")
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading weights shows a bar, which lasts a moment and spoils the output of scripts."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
