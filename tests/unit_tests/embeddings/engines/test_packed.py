"""The layers without padding compute what transformers' models compute with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from langchain_hfembed.embeddings.engines.base import Batch
from langchain_hfembed.embeddings.engines.bert import Bert, first_position, is_bert, position_ids
from langchain_hfembed.embeddings.engines.packed import (
    PackedEncoder,
    attention_among,
)
from langchain_hfembed.embeddings.engines.padded import PaddedEncoder

FAMILIES = {
    "bert": (BertConfig, BertModel),
    "roberta": (RobertaConfig, RobertaModel),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel),
    "camembert": (CamembertConfig, CamembertModel),
}
SMALL = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
    "pad_token_id": 1,
}


def _model(family: str, **settings):
    config, model = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(config(**SMALL | settings)).eval().requires_grad_(False)


def _batch(lengths, seed=0) -> Batch:
    generator = np.random.default_rng(seed)
    return Batch.of([generator.integers(0, 50, length).tolist() for length in lengths])


def _expected(model, batch: Batch) -> torch.Tensor:
    """Text by text, so that there is no padding to be wrong about."""
    texts = torch.split(torch.from_numpy(batch.ids), batch.lengths.tolist())
    mask = [torch.ones(1, len(ids), dtype=torch.long) for ids in texts]
    return torch.cat(
        [
            model(input_ids=ids[None], attention_mask=ones).last_hidden_state[0]
            for ids, ones in zip(texts, mask, strict=True)
        ]
    )


LENGTHS = [[1], [7], [9, 9, 9], [12, 5, 5, 3, 1], [30, 1, 30]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_transformers(family, lengths):
    """Ids are drawn from the whole vocabulary, so `<pad>` stands in some texts."""
    batch = _batch(lengths)
    expected = _expected(_model(family), batch)
    for encoder in (PackedEncoder(Bert(_model(family))), PaddedEncoder(_model(family))):
        torch.testing.assert_close(encoder(batch), expected, atol=2e-5, rtol=0)


def test_the_padding_token_does_stand_in_one_of_these_texts():
    assert any((_batch(lengths).ids == 1).any() for lengths in LENGTHS)


def test_the_layers_are_taken_out_of_the_model():
    model = _model("bert")
    PackedEncoder(Bert(model))
    assert not list(model.encoder.layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_give_nearly_the_same(dtype):
    batch = _batch([20, 20, 4])
    expected = _expected(_model("xlm-roberta"), batch)
    encoder = PackedEncoder(Bert(_model("xlm-roberta").to(dtype)))
    states = encoder(batch)
    assert states.dtype == dtype
    cosines = torch.nn.functional.cosine_similarity(states.float(), expected)
    assert cosines.min() > 0.995


@settings(max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_attention_with_padding_is_attention_without_it(lengths):
    """The one is for GPUs, the other for CPUs."""
    batch = _batch(lengths)
    states = torch.randn(sum(lengths), 24, generator=torch.Generator().manual_seed(0))
    one, other = (
        attention_among(batch, 2, torch.device("cpu"), padded=padded)(states)
        for padded in (True, False)
    )
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=5))
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_positions_are_those_of_transformers(family, texts):
    model = _model(family)
    batch = Batch.of(texts)
    positions = np.split(position_ids(batch, first_position(model.config)), batch.starts[1:])
    for ids, ours in zip(texts, positions, strict=True):
        theirs = list(range(len(ids)))
        if family != "bert":
            create = model.embeddings.create_position_ids_from_input_ids
            theirs = create(torch.tensor([ids]), 1)[0].tolist()
        assert ours.tolist() == theirs


def test_models_with_other_layers_are_told_apart():
    assert all(is_bert(_model(family)) for family in FAMILIES)
    assert not is_bert(_model("bert", hidden_act="gelu_new"))
    assert not is_bert(_model("bert", is_decoder=True))
    assert not is_bert(ElectraModel(ElectraConfig(**SMALL)))
