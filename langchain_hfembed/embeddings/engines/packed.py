"""BERT's and RoBERTa's layers over the tokens of many texts, one after the other, without padding.

Linear layers and norms see each token once and no padding; attention alone knows where a text ends.
On a CPU the weights lie as oneDNN's kernels read them, with GELU in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import embedding, gelu, linear, scaled_dot_product_attention

from langchain_hfembed.embeddings.engines.base import Batch
from langchain_hfembed.embeddings.engines.bert import Affine, Bert, Layer, position_ids

Attend = Callable[[torch.Tensor], torch.Tensor]


class PackedEncoder(nn.Module):
    """The last hidden states of a model of transformers, within rounding.

    Args:
        bert: The model, on the device and in the precision to compute in. Its layers are taken out
            of it.

    Attributes:
        flops_a_token: Floating-point operations of the linear layers.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.flops_a_token = 4 * len(bert) * bert.hidden * (2 * bert.hidden + bert.inner)
        self.words = nn.Parameter(bert.words, requires_grad=False)
        self.positions = nn.Parameter(bert.positions, requires_grad=False)
        self.first_position = bert.first_position
        self.norm = _norm(bert.norm, bert.epsilon)
        self.heads = bert.heads
        self.layers = nn.ModuleList(_Layer(layer, bert.epsilon) for layer in bert.take_layers())

    def forward(self, batch: Batch) -> torch.Tensor:
        """Hidden states of all tokens, shape `(tokens, hidden_size)`."""
        device = self.words.device
        ids = on_device(batch.ids, device)
        positions = on_device(position_ids(batch, self.first_position), device)
        # A GPU is slower to be called than to compute: one call for all texts, padding and all.
        attend = attention_among(batch, self.heads, device, padded=device.type != "cpu")
        states: torch.Tensor = embedding(ids, self.words) + embedding(positions, self.positions)
        states = self.norm(states)
        for layer in self.layers:
            states = layer(states, attend)
        return states


class _Layer(nn.Module):
    def __init__(self, layer: Layer, epsilon: float) -> None:
        super().__init__()
        self.query_key_value = _Linear(layer.query_key_value)
        self.attention_output = _Linear(layer.attention_output)
        self.attention_norm = _norm(layer.attention_norm, epsilon)
        self.expansion = _Linear(layer.expansion, with_gelu=True)
        self.contraction = _Linear(layer.contraction)
        self.output_norm = _norm(layer.output_norm, epsilon)

    def forward(self, states: torch.Tensor, attend: Attend) -> torch.Tensor:
        attended = self.attention_output(attend(self.query_key_value(states)))
        states = self.attention_norm(attended + states)
        result: torch.Tensor = self.output_norm(self.contraction(self.expansion(states)) + states)
        return result


class _Linear(nn.Module):
    """A linear layer, its weights in oneDNN's layout where there is one.

    `torch.nn.functional.linear` brings them into a layout of MKL's or oneDNN's at each call, which
    for a short query takes as long as the product. The two operators are those that
    `torch.compile` emits; without a name for users, but for years the same.
    """

    def __init__(self, affine: Affine, *, with_gelu: bool = False) -> None:
        super().__init__()
        weight = affine.weight.detach()
        self.is_packed = _has_onednn_layout(weight)
        if self.is_packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(affine.bias, requires_grad=False)
        self.with_gelu = with_gelu

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.is_packed:
            operation, variant = ("gelu", "none") if self.with_gelu else ("none", "")
            packed: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                states, self.weight, self.bias, operation, [], variant
            )
            return packed
        states = linear(states, self.weight, self.bias)
        return gelu(states) if self.with_gelu else states


def _has_onednn_layout(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )


def _norm(affine: Affine, epsilon: float) -> nn.LayerNorm:
    norm = nn.LayerNorm(affine.weight.shape[0], epsilon)
    norm.load_state_dict({"weight": affine.weight, "bias": affine.bias})
    return norm.to(affine.weight).requires_grad_(False)


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor; on a CUDA device without waiting for what is computed there."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def attention_among(batch: Batch, heads: int, device: torch.device, *, padded: bool) -> Attend:
    """Self-attention among the tokens of each text.

    Args:
        batch: The texts.
        heads: Of the attention.
        device: Where the states are.
        padded: Pad all texts to one length, and compute them at once; otherwise only neighbours
            of one length are computed at once, without padding.

    Returns:
        From queries, keys and values side by side, shape `(tokens, 3 * hidden)`, to `(tokens,
        hidden)`.
    """
    runs = [(len(list(texts)), length) for length, texts in groupby(batch.lengths.tolist())]
    if len(runs) == 1:
        return lambda states: _attend(states, runs[0], heads)
    if not padded:
        sizes = [count * length for count, length in runs]
        return lambda states: torch.cat(
            [
                _attend(part, run, heads)
                for part, run in zip(torch.split(states, sizes), runs, strict=True)
            ]
        )
    is_token = batch.is_token
    places = on_device(batch.places.ravel(), device)
    rows = on_device(np.flatnonzero(is_token), device)
    mask = on_device(is_token, device)[:, None, None]
    count, longest = is_token.shape
    return lambda states: _attend(states[places], (count, longest), heads, mask)[rows]


def _attend(
    states: torch.Tensor, shape: tuple[int, int], heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Of so many texts of one length."""
    query, key, value = states.view(*shape, 3, heads, -1).permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).reshape(shape[0] * shape[1], -1)
