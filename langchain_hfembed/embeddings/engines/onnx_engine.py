"""One forward pass of a BGE-M3 checkpoint in ONNX Runtime, all views out of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.embeddings.checkpoint import Checkpoint
from langchain_hfembed.embeddings.engines.base import Batch, BatchOutput
from langchain_hfembed.embeddings.engines.bert import first_position, position_ids
from langchain_hfembed.embeddings.engines.heads import read_heads
from langchain_hfembed.embeddings.engines.onnx_export import find_export
from langchain_hfembed.embeddings.engines.torch_engine import max_cached_tokens
from langchain_hfembed.embeddings.tokenizer import load_tokenizer
from langchain_hfembed.vectors import FloatArray, View

if TYPE_CHECKING:
    from langchain_hfembed.embeddings.engines.loading import Quantization

# What exporters call the states of all tokens.
_STATES = ("last_hidden_state", "token_embeddings", "hidden_states")


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

    name = "the CPU"

    def __init__(
        self, checkpoint: Checkpoint, *, quantization: Quantization | None, normalize: bool
    ) -> None:
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
        self._session = _open(find_export(checkpoint, quantization))
        outputs = [given.name for given in self._session.get_outputs()]
        self._is_ours = "token_vectors" in outputs
        self._states = next((name for name in _STATES if name in outputs), outputs[0])

    def start(self, batch: Batch, views: Collection[View]) -> Callable[[], BatchOutput]:
        """Run the model; see `Engine.start`."""
        states, weights, vectors = self._run(batch)
        output = BatchOutput(
            self._scaled(self._pooled(states, batch)) if "dense" in views else None,
            np.maximum(weights[:, 0], 0) if "sparse" in views else None,
            self._scaled(vectors) if "multi_vector" in views else None,
        )
        return lambda: output

    def _run(self, batch: Batch) -> tuple[FloatArray, FloatArray, FloatArray]:
        """States, weights and vectors of all tokens, as `onnx_graph` has them."""
        is_token = np.arange(batch.lengths.max()) < batch.lengths[:, None]
        if self._is_ours:
            places = np.zeros(is_token.shape, np.int64)
            places[is_token] = np.arange(len(batch.ids))
            states, weights, vectors = self._session.run(
                ["states", "token_weights", "token_vectors"],
                {
                    "input_ids": batch.ids,
                    "position_ids": position_ids(batch, self._first_position),
                    "lengths": batch.lengths.astype(np.int32),
                    "places": places,
                    "rows": np.flatnonzero(is_token),
                },
            )
            return states, weights, vectors
        states = self._run_other(batch, is_token)
        return states, _linear(states, self._sparse_head), _linear(states, self._colbert_head)

    def _run_other(self, batch: Batch, is_token: NDArray[np.bool_]) -> FloatArray:
        """States of all tokens from an export that takes padding."""

        def padded(values: NDArray[np.int64], padding: int = 0) -> NDArray[np.int64]:
            rows = np.full(is_token.shape, padding, np.int64)
            rows[is_token] = values
            return rows

        known: dict[str, Callable[[], NDArray[np.int64]]] = {
            "input_ids": lambda: padded(batch.ids, self._pad_id),
            "attention_mask": lambda: is_token.astype(np.int64),
            "token_type_ids": lambda: np.zeros(is_token.shape, np.int64),
            "position_ids": lambda: padded(position_ids(batch, self._first_position)),
        }
        given = [each.name for each in self._session.get_inputs()]
        [states] = self._session.run([self._states], {name: known[name]() for name in given})
        return cast(FloatArray, states[is_token])

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


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'engine="onnx" needs ONNX Runtime: pip install "langchain-hfembed[onnx]"'
        ) from error
    return onnxruntime.InferenceSession(
        path,
        providers=["CPUExecutionProvider"],
        # The fused operator takes four times as long as an addition and a norm.
        disabled_optimizers=["SkipLayerNormFusion"],
    )
