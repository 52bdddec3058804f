"""The two heads of a BGE-M3 checkpoint, read from their files without running what is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from langchain_hfembed.embeddings.checkpoint import COLBERT_HEAD, SPARSE_HEAD
from langchain_hfembed.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_heads(folder: Path, hidden_size: int) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """The sparse and the ColBERT head.

    Args:
        folder: The checkpoint.
        hidden_size: Of its model.

    Raises:
        CheckpointError: If a file holds something else, or the head of another model.
    """
    sparse, colbert = (
        _read_head(folder / name, hidden_size, rows)
        for name, rows in ((SPARSE_HEAD, 1), (COLBERT_HEAD, None))
    )
    return sparse, colbert


def _read_head(file: Path, hidden_size: int, rows: int | None) -> torch.nn.Linear:
    state = _read_state(file)
    weight, bias = (tuple(state[part].shape) for part in ("weight", "bias"))
    dim = rows or next(iter(weight), 0)
    if not dim or weight != (dim, hidden_size) or bias != (dim,):
        needed = rows or "colbert_dim"
        raise CheckpointError(
            f"{file} has a weight of shape {weight} and a bias of shape {bias}; the model needs "
            f"({needed}, {hidden_size}) and ({needed},). It belongs to another model: copy the "
            "file that came with this one"
        )
    head = torch.nn.Linear(hidden_size, dim)
    head.load_state_dict(state)
    return head.requires_grad_(False)


def _read_state(file: Path) -> Mapping[str, torch.Tensor]:
    message = f"{file} is not a head of BGE-M3 (a state_dict with weight and bias)"
    try:
        # weights_only: a head out of an unknown folder must not be able to run code.
        state = torch.load(file, map_location="cpu", weights_only=True)
    # What a damaged file raises depends on the byte: an opcode, a length, an encoding.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Not torch's own words, which advise to load it with weights_only=False.
        raise CheckpointError(
            f"{message}: {type(error).__name__}. Copy it again from where the model came from"
        ) from error
    parts = state if isinstance(state, dict) else {}
    if set(parts) != {"weight", "bias"} or not all(map(torch.is_tensor, parts.values())):
        raise CheckpointError(
            f"{message}; it holds {type(state).__name__} {sorted(map(str, parts))}"
        )
    return parts
