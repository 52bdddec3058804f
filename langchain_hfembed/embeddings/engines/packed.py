"""BERT's and RoBERTa's layers over the tokens of many texts, one after the other, without padding.

Linear layers and norms see each token once and no padding; attention alone knows where a text ends.
On a CPU the weights lie as oneDNN's kernels read them, with GELU in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
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
        ids = torch.from_numpy(batch.ids).to(device)
        positions = torch.from_numpy(position_ids(batch, self.first_position)).to(device)
        states: torch.Tensor = embedding(ids, self.words) + embedding(positions, self.positions)
        states = self.norm(states)
        lengths = batch.lengths.tolist()
        # A GPU is slower to be called than to compute: one call for all texts, padding and all.
        attend = attention_among(lengths, self.heads, device, padded=device.type != "cpu")
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


def attention_among(
    lengths: Sequence[int], heads: int, device: torch.device, *, padded: bool
) -> Attend:
    """Self-attention among the tokens of each text.

    Args:
        lengths: Tokens of each text, shape `(n,)`.
        heads: Of the attention.
        device: Where the states are.
        padded: Pad all texts to one length, and compute them at once; otherwise only neighbours
            of one length are computed at once, without padding.

    Returns:
        From queries, keys and values side by side, shape `(tokens, 3 * hidden)`, to `(tokens,
        hidden)`.
    """
    if not padded:
        return lambda states: _attend_by_length(states, lengths, heads)
    longest = max(lengths)
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    rows = is_token.flatten().nonzero().squeeze(1).to(device)
    mask = None if min(lengths) == longest else is_token[:, None, None].to(device)
    return lambda states: _attend_padded(states, rows, mask, (len(lengths), longest), heads)


def _attend_by_length(states: torch.Tensor, lengths: Sequence[int], heads: int) -> torch.Tensor:
    runs = [(length, len(list(texts))) for length, texts in groupby(lengths)]
    parts = torch.split(states, [length * count for length, count in runs])
    attended = [
        _attend(part, (count, length), heads)
        for part, (length, count) in zip(parts, runs, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_padded(
    states: torch.Tensor,
    rows: torch.Tensor,
    mask: torch.Tensor | None,
    shape: tuple[int, int],
    heads: int,
) -> torch.Tensor:
    padded = states.new_zeros(shape[0] * shape[1], states.shape[1]).index_copy_(0, rows, states)
    return _attend(padded, shape, heads, mask)[rows]


def _attend(
    states: torch.Tensor, shape: tuple[int, int], heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    query, key, value = states.view(*shape, 3, heads, -1).permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).reshape(shape[0] * shape[1], -1)


class PaddedEncoder(nn.Module):
    """Any other model of transformers, which takes padding, under the same call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        tables = sum(weight.numel() for weight in model.embeddings.parameters())
        self.flops_a_token = 2 * (model.num_parameters() - tables)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Hidden states of all tokens, shape `(tokens, hidden_size)`."""
        lengths = torch.from_numpy(batch.lengths)
        is_token = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.full(is_token.shape, self.model.config.pad_token_id or 0)
        ids[is_token] = torch.from_numpy(batch.ids)
        is_token = is_token.to(self.model.device)
        output = self.model(ids.to(self.model.device), attention_mask=is_token.long())
        states: torch.Tensor = output.last_hidden_state[is_token]
        return states
