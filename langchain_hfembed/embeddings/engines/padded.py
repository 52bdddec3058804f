"""Any model of transformers under the call of `PackedEncoder`, with the padding that it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from langchain_hfembed.embeddings.engines.base import Batch
from langchain_hfembed.embeddings.engines.packed import on_device


class PaddedEncoder(nn.Module):
    """The last hidden states of a model whose layers we don't know.

    Args:
        model: On the device and in the precision to compute in.

    Attributes:
        flops_a_token: Floating-point operations of the linear layers, about.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        tables = sum(weight.numel() for weight in model.embeddings.parameters())
        self.flops_a_token = 2 * (model.num_parameters() - tables)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Hidden states of all tokens, shape `(tokens, hidden_size)`."""
        is_token = batch.is_token
        ids = batch.ids[batch.places]
        ids[~is_token] = self.model.config.pad_token_id or 0
        mask = on_device(is_token, self.model.device)
        output = self.model(on_device(ids, self.model.device), attention_mask=mask.long())
        states: torch.Tensor = output.last_hidden_state[mask]
        return states
