"""BERT's and RoBERTa's layers as an ONNX graph, in ONNX Runtime's fastest operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from langchain_hfembed.embeddings.engines.bert import Affine, Bert, Layer

_MICROSOFT = "com.microsoft"
HEAD_PRODUCTS = ("token_weights_product", "token_vectors_product")
"""The nodes of the heads, small and better left in float32."""

_OPSET, _IR_VERSION = 20, 9  # of 2023; every ONNX Runtime since 1.17 reads them


def save_graph(
    bert: Bert, sparse_head: Affine, colbert_head: Affine, path: Path, *, for_int8: bool = False
) -> None:
    """Write the model with its heads as `path`, the weights in a file beside it.

    Tokens of all texts lie one after the other, without padding. Only attention pads, by itself.
    Inputs, int64 but for the lengths, int32:

    - `input_ids` and `position_ids`, shape `(tokens,)`;
    - `lengths`, shape `(texts,)`: the tokens of each text;
    - `places`, shape `(texts, longest)`: which token is at each place of each text; any where the
      text has none;
    - `rows`, shape `(tokens,)`: at which of these `texts * longest` places each token is.

    Outputs are `states`, shape `(tokens, hidden)`, `token_weights`, `(tokens, 1)`, and
    `token_vectors`, `(tokens, colbert_dim)`.

    Args:
        bert: The model, whose layers are taken out of it.
        sparse_head: Gives the weights, which may be below zero.
        colbert_head: Gives the vectors, of any length.
        path: The file.
        for_int8: Whether its products are to be quantised: with one scale for all tokens, as ONNX
            Runtime does it, a few large values take the precision of all others. They come out of
            GELU, so each token's row is divided by its largest value there.
    """
    graph = _Graph(for_int8)
    states = graph.add(
        "Add",
        graph.add("Gather", graph.constant(bert.words), "input_ids"),
        graph.add("Gather", graph.constant(bert.positions), "position_ids"),
    )
    states = graph.norm(states, bert.norm, bert.epsilon)
    graph.add("Less", graph.add("Size", "rows"), graph.add("Size", "places"), output="has_padding")
    for layer in bert.take_layers():
        states = graph.layer(states, layer, bert)
    graph.add("Identity", states, output="states")
    heads = {"token_weights": sparse_head, "token_vectors": colbert_head}
    for name, head in heads.items():
        product = graph.add(
            "MatMul", "states", graph.constant(head.weight.T), output=f"{name}_product"
        )
        graph.add("Add", product, graph.constant(head.bias), output=name)
    widths = {"states": bert.hidden} | {name: len(head.bias) for name, head in heads.items()}
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bge_m3",
            [
                _info("input_ids", TensorProto.INT64, "tokens"),
                _info("position_ids", TensorProto.INT64, "tokens"),
                _info("lengths", TensorProto.INT32, "texts"),
                _info("places", TensorProto.INT64, "texts", "longest"),
                _info("rows", TensorProto.INT64, "tokens"),
            ],
            [_info(name, TensorProto.FLOAT, "tokens", width) for name, width in widths.items()],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)],
        ir_version=_IR_VERSION,
    )
    if for_int8:  # else ONNX Runtime advises, on the root logger, to prepare it first
        helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # One file would end at 2 GB, which BGE-M3 is above.
    onnx.save_model(
        proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
    )


def _info(name: str, kind: int, *shape: str | int) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


class _Graph:
    """Nodes and constants, each of which gets a name when it is added."""

    def __init__(self, for_int8: bool) -> None:
        self.for_int8 = for_int8
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: torch.Tensor | np.ndarray[Any, Any]) -> str:
        name = f"constant_{len(self.constants)}"
        array = value if isinstance(value, np.ndarray) else value.detach().numpy()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self._add(operator, inputs, [output], attributes)
        return output

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: dict[str, Any],
    ) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))

    def norm(self, states: str, affine: Affine, epsilon: float) -> str:
        weights = self.constant(affine.weight), self.constant(affine.bias)
        return self.add("LayerNormalization", states, *weights, axis=-1, epsilon=epsilon)

    def linear(self, states: str, affine: Affine, *, with_row_scales: bool = False) -> str:
        scales = self.row_scales(states) if with_row_scales else None
        if scales is not None:
            states = self.add("Div", states, scales)
        product = self.add("MatMul", states, self.constant(affine.weight.T))
        if scales is not None:
            product = self.add("Mul", product, scales)
        return self.add("Add", product, self.constant(affine.bias))

    def row_scales(self, states: str) -> str:
        last_axis = self.constant(np.array([-1], np.int64))
        largest = self.add("ReduceMax", self.add("Abs", states), last_axis, keepdims=1)
        return self.add("Max", largest, self.constant(np.array(1e-6, np.float32)))

    def layer(self, states: str, layer: Layer, bert: Bert) -> str:
        attended = self.attention(self.linear(states, layer.query_key_value), bert)
        attended = self.add("Add", self.linear(attended, layer.attention_output), states)
        states = self.norm(attended, layer.attention_norm, bert.epsilon)
        expanded = self.add("Gelu", self.linear(states, layer.expansion))
        contracted = self.linear(expanded, layer.contraction, with_row_scales=self.for_int8)
        return self.norm(self.add("Add", contracted, states), layer.output_norm, bert.epsilon)

    def attention(self, query_key_value: str, bert: Bert) -> str:
        """Attention, with a mask only where there is padding.

        Without one, ONNX Runtime keeps no matrix of all pairs of tokens: at 8,192 tokens that is
        0.3 GB instead of 4.7, and four times as fast.
        """
        padded = self.add("Gather", query_key_value, "places")
        three = [f"{part}_{len(self.nodes)}" for part in ("query", "key", "value")]
        sizes = self.constant(np.full(3, bert.hidden, np.int64))
        self._add("Split", [padded, sizes], three, {"axis": -1})

        def branch(name: str, *inputs: str) -> Any:
            output = f"{name}_{len(self.nodes)}"
            node = helper.make_node(
                "MultiHeadAttention", inputs, [output], domain=_MICROSOFT, num_heads=bert.heads
            )
            info = _info(output, TensorProto.FLOAT, "texts", "longest", bert.hidden)
            return helper.make_graph([node], name, [], [info])

        attended = self.add(
            "If",
            "has_padding",
            then_branch=branch("masked", *three, "", "lengths"),
            else_branch=branch("unmasked", *three),
        )
        flat = self.add("Reshape", attended, self.constant(np.array([-1, bert.hidden], np.int64)))
        return self.add("Gather", flat, "rows")
