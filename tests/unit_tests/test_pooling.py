"""Token pooling, held against Sentence Transformers' and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_hfembed.pooling import pool_tokens
from langchain_hfembed.scoring import unit_rows


def _tokens(seed: int, count: int, dim: int = 8) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 33, 100])
def test_it_equals_sentence_transformers(factor, count):
    pooling = pytest.importorskip("sentence_transformers.multi_vector_encoder.modules")
    import torch

    tokens = _tokens(count, count)
    theirs = (
        pooling.HierarchicalTokenPooling(factor, num_protected_tokens=0)
        .pool([torch.tensor(tokens)], task="document")[0]
        .numpy()
    )
    ours = pool_tokens(tokens, factor)
    assert ours.shape == theirs.shape
    # Theirs come in the order of the clusters, ours in that of the text.
    nearest = (ours @ theirs.T).max(axis=1)
    np.testing.assert_allclose(nearest, 1, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_so_many_unit_vectors_are_left(count, factor, seed):
    pooled = pool_tokens(_tokens(seed, count), factor)
    assert pooled.dtype == np.float32
    assert len(pooled) == max(1, count // factor)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)


def test_factor_1_leaves_them_as_they_are():
    tokens = _tokens(0, 9)
    assert pool_tokens(tokens, 1) is tokens


def test_the_nearest_tokens_become_one_in_the_order_of_the_text():
    a, b = np.eye(2, dtype=np.float32)
    tilted = unit_rows(np.array([[1, 0.1]], np.float32))[0]
    pooled = pool_tokens(np.stack([b, a, tilted, b]), 2)
    expected = unit_rows(np.stack([b, a + tilted]))
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
