"""The weights of BERT's and RoBERTa's families, out of a model of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from langchain_hfembed.embeddings.engines.base import Batch

Ids = NDArray[np.int64]

_ROBERTA = ("camembert", "roberta", "xlm-roberta")


@dataclass(frozen=True, eq=False)
class Affine:
    """Weight and bias of a linear layer, shape `(out, in)` and `(out,)`, or of a norm, `(dim,)`."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, *modules: Any) -> Affine:
        """Those of a module, or of several linear layers one below the other."""
        if len(modules) == 1:
            return cls(modules[0].weight, modules[0].bias)
        return cls(
            torch.cat([module.weight for module in modules]),
            torch.cat([module.bias for module in modules]),
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """One transformer layer, norms behind each half; between the last two linears lies a GELU."""

    query_key_value: Affine
    attention_output: Affine
    attention_norm: Affine
    expansion: Affine
    contraction: Affine
    output_norm: Affine


class Bert:
    """What a forward pass needs of a model.

    Args:
        model: A model that `is_bert`.

    Attributes:
        words: Shape `(vocabulary, hidden)`.
        positions: With the vector of the only type that texts have, shape `(positions, hidden)`.
        norm: Of the embeddings.
        heads: Of the attention.
        hidden, inner: Dimensions of the states, and between expansion and contraction.
        epsilon: Of the norms.
        first_position: The number of a text's first position.
    """

    def __init__(self, model: Any) -> None:
        embeddings, config = model.embeddings, model.config
        self.words: torch.Tensor = embeddings.word_embeddings.weight
        types = embeddings.token_type_embeddings.weight
        self.positions: torch.Tensor = embeddings.position_embeddings.weight + types[0]
        self.norm = Affine.of(embeddings.LayerNorm)
        self.heads: int = config.num_attention_heads
        self.hidden: int = config.hidden_size
        self.inner: int = config.intermediate_size
        self.epsilon: float = config.layer_norm_eps
        self.first_position = first_position(config)
        self._layers = model.encoder.layer

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self._layers)

    def take_layers(self) -> Iterator[Layer]:
        """The layers, each taken out of the model, so that there are never two copies of all."""
        for number, layer in enumerate(self._layers):
            self._layers[number] = torch.nn.Identity()
            attention, output = layer.attention, layer.output
            yield Layer(
                Affine.of(attention.self.query, attention.self.key, attention.self.value),
                Affine.of(attention.output.dense),
                Affine.of(attention.output.LayerNorm),
                Affine.of(layer.intermediate.dense),
                Affine.of(output.dense),
                Affine.of(output.LayerNorm),
            )


def is_bert(model: Any) -> bool:
    """Whether a model of transformers has these layers and no others."""
    config = model.config
    return (
        config.model_type in ("bert", *_ROBERTA)
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not config.is_decoder
    )


def first_position(config: Any) -> int:
    """Where a text's positions start: at 0, but in RoBERTa's family behind the padding's."""
    return int(config.pad_token_id) + 1 if config.model_type in _ROBERTA else 0


def position_ids(batch: Batch, first: int) -> Ids:
    """Positions of all tokens of a batch.

    Args:
        batch: The texts.
        first: The first position. Above 0, `<pad>` written in a text is not counted.

    Returns:
        Shape `(tokens,)`.
    """
    if first == 0:
        return np.arange(len(batch.ids), dtype=np.int64) - batch.starts[batch.texts]
    is_counted = batch.ids != first - 1
    numbers = np.cumsum(is_counted, dtype=np.int64)
    before = numbers[batch.starts] - is_counted[batch.starts]
    counted = (numbers - before[batch.texts]) * is_counted
    return cast(Ids, counted + (first - 1))
