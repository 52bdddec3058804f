"""Fewer token vectors for a document: those that say the same become one."""

from __future__ import annotations

import numpy as np

from langchain_hfembed.scoring import unit_rows
from langchain_hfembed.vectors import FloatArray


def pool_tokens(vectors: FloatArray, factor: int, already: int = 1) -> FloatArray:
    """Cluster token vectors, and keep the mean of each cluster.

    Args:
        vectors: L2-normalised token vectors of one document, shape `(tokens, dim)`.
        factor: About how many tokens become one; 1 leaves them as they are.
        already: About how many have become one before, so that nothing is pooled twice.

    Returns:
        L2-normalised means, in the order of each cluster's first token, shape
        `(max(1, tokens // factor), dim)`, or fewer rows where tokens are equal.

    Source:
        Clavié et al. 2024, arXiv:2409.14683: hierarchical clustering of cosine distances with
        Ward's method, as Sentence Transformers' `HierarchicalTokenPooling` has it.
    """
    factor = max(1, factor // already)
    count = max(1, len(vectors) // factor)
    if factor == 1 or count == len(vectors):
        return vectors
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distances = np.maximum(1 - vectors @ vectors.T, 0)
    np.fill_diagonal(distances, 0)
    labels = fcluster(linkage(squareform(distances, checks=False), "ward"), count, "maxclust")
    _, firsts, clusters = np.unique(labels, return_index=True, return_inverse=True)
    sums = np.zeros((len(firsts), vectors.shape[1]), np.float64)
    np.add.at(sums, clusters, vectors)
    # Sums, not means: both have the same direction.
    return unit_rows(sums[np.argsort(firsts)].astype(np.float32))
