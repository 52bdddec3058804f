"""Smaller token vectors: what they keep, and what the file remembers of how they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed import HybridEmbedding, HybridIndexError, InvalidInputError, SQLiteIndex
from langchain_hfembed.index.base import IndexRecord
from langchain_hfembed.index.sqlite.token_codec import TokenCodec
from langchain_hfembed.pooling import pool_tokens
from langchain_hfembed.scoring import unit_rows


def _decoded(codec: TokenCodec, blob: bytes) -> np.ndarray:
    out = np.empty((len(blob) // codec.bytes_a_token, codec.dim), np.float32)
    codec.decode([blob], out)
    return out


DTYPES = ["float32", "float16", "int8"]
LOSS = {"float32": 1e-6, "float16": 1e-3, "int8": 1e-2}


def _tokens(seed: int, count: int, dim: int = 32) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def _records(count: int = 6) -> list[IndexRecord]:
    return [
        IndexRecord(str(n), f"text {n}", {}, HybridEmbedding(multi_vector=_tokens(n, 5 + n)))
        for n in range(count)
    ]


@given(st.integers(0, 999), st.integers(1, 20), st.sampled_from([1, 3, 32, 128]))
def test_what_is_read_points_where_what_was_written_did(seed, count, dim):
    tokens = _tokens(seed, count, dim)
    for dtype in DTYPES:
        codec = TokenCodec(dtype, dim)
        written = codec.encode(tokens)
        assert len(written) == count * codec.bytes_a_token
        read = _decoded(codec, written)
        assert read.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=2e-3)
        cosines = np.einsum("ij,ij->i", unit_rows(read), tokens)
        assert (cosines > 1 - LOSS[dtype]).all()


def test_every_finite_half_is_read_as_numpy_reads_it():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    read = _decoded(TokenCodec("float16", 1), finite.tobytes())[:, 0]
    assert (read == finite.astype(np.float32)).all()
    others = halves[~np.isfinite(halves)]
    assert (np.abs(_decoded(TokenCodec("float16", 1), others.tobytes())) > 65_000).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_without_direction_stays_one(dtype):
    nothing = np.zeros((2, 8), np.float32)
    codec = TokenCodec(dtype, 8)
    assert (_decoded(codec, codec.encode(nothing)) == nothing).all()


@pytest.mark.parametrize(("dtype", "size"), [("float32", 512), ("float16", 256), ("int8", 130)])
def test_what_a_token_takes(dtype, size):
    assert TokenCodec(dtype, 128).bytes_a_token == size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooling", [1, 2, 4])
def test_scores_are_those_of_the_pooled_tokens_within_the_precision(tmp_path, dtype, pooling):
    query = HybridEmbedding(multi_vector=_tokens(99, 4))
    path = tmp_path / "index.db"
    with SQLiteIndex(path, multi_vector_dtype=dtype, token_pooling=pooling) as index:
        index.upsert(_records())
        scores = index.score(query, [str(n) for n in range(6)]).multi_vector
        [record] = index.get(["5"], views=("multi_vector",))
    expected = [
        (query.multi_vector @ pool_tokens(_tokens(n, 5 + n), pooling).T).max(axis=1).mean()
        for n in range(6)
    ]
    np.testing.assert_allclose(scores, expected, atol=LOSS[dtype])
    assert record.embedding.multi_vector.shape == (10 // pooling, 32)


def test_a_file_is_read_as_it_was_written_whatever_is_not_said(tmp_path: Path):
    path = tmp_path / "index.db"
    with SQLiteIndex(path, multi_vector_dtype="int8", token_pooling=2) as index:
        index.upsert(_records(2))
    with SQLiteIndex(path) as index:
        index.upsert(_records(3))
        assert index.get(["2"], views=("multi_vector",))[0].embedding.multi_vector.shape == (3, 32)
    with SQLiteIndex(path, multi_vector_dtype="int8", token_pooling=2) as index:
        assert index.count() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multi_vector_dtype": "float16"}, "has multi_vector_dtype=int8, not float16; leave"),
        ({"token_pooling": 4}, "has token_pooling=2, not 4; leave token_pooling out"),
    ],
)
def test_a_file_of_another_compression_is_refused(tmp_path: Path, arguments, message):
    path = tmp_path / "index.db"
    with SQLiteIndex(path, multi_vector_dtype="int8", token_pooling=2) as index:
        index.upsert(_records(2))
    before = path.read_bytes()
    with pytest.raises(HybridIndexError, match=message):
        SQLiteIndex(path, **arguments)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [{"multi_vector_dtype": "int4"}, {"token_pooling": 0}, {"token_pooling": -1}]
)
def test_compressions_that_there_are_not_are_refused(arguments):
    with pytest.raises(InvalidInputError, match=next(iter(arguments))):
        SQLiteIndex(**arguments)


@pytest.mark.parametrize("room", [1, 1000, 3000])
def test_scores_do_not_depend_on_how_many_are_read_at_once(monkeypatch, room):
    query = HybridEmbedding(multi_vector=_tokens(99, 4))
    ids = [str(n) for n in reversed(range(30))]
    with SQLiteIndex() as index:
        index.upsert(_records(30))
        expected = index.score(query, ids).multi_vector
        stored = index.get(ids, views=("multi_vector",))
        monkeypatch.setattr("langchain_hfembed.index.sqlite.rows._BYTES_AT_ONCE", room)
        np.testing.assert_allclose(index.score(query, ids).multi_vector, expected, atol=1e-6)
        for one, other in zip(stored, index.get(ids, views=("multi_vector",)), strict=True):
            assert (one.embedding.multi_vector == other.embedding.multi_vector).all()


def test_a_compression_that_another_object_has_settled_since_is_refused(tmp_path: Path):
    path = tmp_path / "index.db"
    with SQLiteIndex(path, token_pooling=1) as index, SQLiteIndex(path, token_pooling=4) as other:
        other.upsert(_records(1))
        with pytest.raises(HybridIndexError, match="has token_pooling=4, not 1"):
            index.upsert(_records(2))
        assert index.count() == 1


def test_pooling_does_not_keep_other_writers_waiting(tmp_path: Path, monkeypatch):
    path = tmp_path / "index.db"
    with SQLiteIndex(path, token_pooling=2) as index, SQLiteIndex(path, busy_timeout=0) as other:
        index.upsert(_records(1))

        def pooled(tokens, factor, already):
            other.delete(["5"])
            return pool_tokens(tokens, factor, already)

        monkeypatch.setattr("langchain_hfembed.index.sqlite.rows.pool_tokens", pooled)
        index.upsert(_records(3))
        assert index.count() == 3
