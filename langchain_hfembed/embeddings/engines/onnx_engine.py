"""One forward pass of a BGE-M3 checkpoint in ONNX Runtime, all views out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from langchain_hfembed.embeddings.checkpoint import Checkpoint, Quantization
from langchain_hfembed.embeddings.engines.base import (
    Batch,
    BatchOutput,
    is_out_of_memory,
    max_cached_tokens,
)
from langchain_hfembed.embeddings.engines.bert import first_position, position_ids
from langchain_hfembed.embeddings.engines.heads import read_heads
from langchain_hfembed.embeddings.engines.onnx_export import find_export, require
from langchain_hfembed.embeddings.tokenizer import load_tokenizer
from langchain_hfembed.errors import CheckpointError
from langchain_hfembed.vectors import FloatArray, View

logger = logging.getLogger(__name__)

# What exporters call the states of all tokens, and what they may ask for.
_STATES = ("last_hidden_state", "token_embeddings", "hidden_states")
_STATES_NDIM = 3
_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


class OnnxEngine:
    """The encoder in ONNX Runtime, on the CPU, its heads in numpy; see `Engine`.

    Args:
        checkpoint: The folder.
        quantization: `"int8"`, or None for float32.
        normalize: Scale dense and token vectors to length 1.

    Raises:
        CheckpointError: If a head does not fit the model, or the model can't be exported.
        ImportError: If ONNX Runtime, or what exports, is not installed.
    """

    device_name = "the CPU"

    def __init__(
        self, checkpoint: Checkpoint, *, quantization: Quantization | None, normalize: bool
    ) -> None:
        require("onnxruntime")
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(checkpoint.folder)
        self._sparse_head, self._colbert_head = (
            (head.weight.numpy().T.copy(), head.bias.numpy())
            for head in read_heads(checkpoint.folder, config.hidden_size)
        )
        self.tokenizer = load_tokenizer(checkpoint.folder)
        self._pad_id = int(config.pad_token_id or 0)
        self._first_position = first_position(config)
        self.max_positions = int(config.max_position_embeddings) - self._first_position
        self.max_batch_tokens = max_cached_tokens(config)
        self._pooling, self._normalize = checkpoint.pooling, normalize
        path = find_export(checkpoint, quantization)
        self._session = _open(path)
        self._inputs = {given.name: given.type for given in self._session.get_inputs()}
        self._is_ours = "places" in self._inputs
        self._states_name = "states" if self._is_ours else self._find_states(path, config)

    def start(self, batch: Batch, views: Collection[View]) -> Callable[[], BatchOutput]:
        """Run the model; see `Engine.start`."""
        try:
            run = self._run if self._is_ours else self._run_other
            states, weights, vectors = run(batch, views)
        except _failures() as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError from error
        output = BatchOutput(
            self._scaled(self._pooled(states, batch)) if "dense" in views else None,
            np.maximum(weights[:, 0], 0) if "sparse" in views else None,
            self._scaled(vectors) if "multi_vector" in views else None,
        )
        return lambda: output

    def _run(self, batch: Batch, _views: Collection[View]) -> list[FloatArray]:
        """States, weights and vectors of all tokens, as `onnx_graph` has them."""
        outputs: list[FloatArray] = self._session.run(
            ["states", "token_weights", "token_vectors"],
            {
                "input_ids": batch.ids,
                "position_ids": position_ids(batch, self._first_position),
                "lengths": batch.lengths.astype(np.int32),
                "places": batch.places,
                "rows": np.flatnonzero(batch.is_token).astype(np.int64),
            },
        )
        return outputs

    def _run_other(self, batch: Batch, views: Collection[View]) -> list[FloatArray]:
        """The same from an export that takes padding, and has no heads."""
        is_token, places = batch.is_token, batch.places
        positions = position_ids(batch, self._first_position)
        known = {
            "input_ids": np.where(is_token, batch.ids[places], self._pad_id),
            "attention_mask": is_token,
            "token_type_ids": np.zeros(is_token.shape),
            "position_ids": np.where(is_token, positions[places], 0),
        }
        given = {name: known[name].astype(_TYPES[type_]) for name, type_ in self._inputs.items()}
        [padded] = self._session.run([self._states_name], given)
        states: FloatArray = padded[is_token].astype(np.float32)
        nothing = np.empty((0, 1), np.float32)
        return [
            states,
            _linear(states, self._sparse_head) if "sparse" in views else nothing,
            _linear(states, self._colbert_head) if "multi_vector" in views else nothing,
        ]

    def _find_states(self, path: Path, config: Any) -> str:
        """The output with the states of all tokens.

        Raises:
            CheckpointError: If there is none, or an input that we don't know.
        """
        outputs: list[str] = [
            given.name
            for given in self._session.get_outputs()
            if len(given.shape) == _STATES_NDIM
            and (given.shape[-1] == config.hidden_size or isinstance(given.shape[-1], str))
        ]
        found = next((name for name in (*_STATES, *outputs) if name in outputs), None)
        if found is None or not set(self._inputs) <= _KNOWN_INPUTS:
            raise CheckpointError(
                f"{path} takes {', '.join(self._inputs)} and gives "
                f"{', '.join(given.name for given in self._session.get_outputs())}; of an export "
                f"we know the inputs {', '.join(sorted(_KNOWN_INPUTS))}, and need an output of "
                f"shape (texts, tokens, {config.hidden_size}). Remove it, and one is made"
            )
        return found

    def _pooled(self, states: FloatArray, batch: Batch) -> FloatArray:
        if self._pooling == "cls":
            return states[batch.starts]
        sums: FloatArray = np.add.reduceat(states, batch.starts, axis=0)
        return cast(FloatArray, sums / batch.lengths[:, None].astype(np.float32))

    def _scaled(self, vectors: FloatArray) -> FloatArray:
        if not self._normalize:
            return vectors
        squares: FloatArray = np.einsum("ij,ij->i", vectors, vectors)
        # Not 0, so that a vector of zeros stays one; torch has the same.
        return cast(FloatArray, vectors / np.maximum(np.sqrt(squares), 1e-12)[:, None])


def _linear(states: FloatArray, head: tuple[FloatArray, FloatArray]) -> FloatArray:
    weight, bias = head
    product: FloatArray = states @ weight
    product += bias
    return product


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its errors have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # which heeds what the process may use
    logger.info("loading %s on %d threads", path, options.intra_op_num_threads)
    try:
        return onnxruntime.InferenceSession(
            path,
            options,
            providers=["CPUExecutionProvider"],
            # The fused operator takes four times as long as an addition and a norm.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    except _failures() as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} can't be read as an ONNX model: {str(error).strip()}. Remove the folder "
            f"{path.parent} if it is in the cache, or the file if it came with the model, and it "
            "is made again"
        ) from error
