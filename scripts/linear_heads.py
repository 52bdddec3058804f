"""The demo model's two linear heads, and where their tuning starts: PCA and ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from scripts.token_states import SPECIAL_TOKENS, Floats
from scripts.training_data import Task


@dataclass
class Heads:
    """Both linear heads: weights of shape `(out, hidden)` and biases of shape `(out,)`."""

    colbert_weight: torch.Tensor
    colbert_bias: torch.Tensor
    sparse_weight: torch.Tensor
    sparse_bias: torch.Tensor

    def multi_vector(self, hidden: torch.Tensor) -> torch.Tensor:
        """L2-normalised token vectors."""
        return functional.normalize(hidden @ self.colbert_weight.T + self.colbert_bias, dim=-1)

    def token_weights(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sparse weight of each token, before the maximum over equal tokens."""
        return torch.relu(hidden @ self.sparse_weight[0] + self.sparse_bias)


def untuned_heads(tasks: list[Task], *, dims: int, power: float, penalty: float) -> Heads:
    """The heads before tuning; see `partial_whitening` and `bm25_ridge` for the numbers."""
    colbert_weight, colbert_bias = partial_whitening(tasks, power, dims)
    sparse_weight, sparse_bias = bm25_ridge(tasks, penalty)
    return Heads(
        torch.from_numpy(colbert_weight),
        torch.from_numpy(colbert_bias),
        torch.from_numpy(sparse_weight)[None],
        torch.tensor([sparse_bias]),
    )


def partial_whitening(tasks: list[Task], power: float, dims: int) -> tuple[Floats, Floats]:
    """PCA of the token states; the kept directions are divided by `variance ** power`.

    A power of 0.5 whitens fully. Returns a weight of shape `(dims, hidden)` and its bias.
    """
    sample = np.concatenate(
        [states.hidden[::5] for task in tasks for states in (task.documents, task.queries)]
    ).astype(np.float64)
    mean = sample.mean(0)
    variances, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False))
    kept = np.argsort(-variances)[:dims]
    weight = directions[:, kept].T / variances[kept, None] ** power
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def bm25_ridge(tasks: list[Task], penalty: float) -> tuple[Floats, np.float32]:
    """Weights that predict, from a token's state, its share of a BM25 score.

    Both sides of the dot product come from one head, so each gets the root of the idf; the
    document side also BM25's saturation (k1 1.2, b 0.75), known for each token of the text.
    """
    frequency: dict[int, int] = {}
    total = 0
    for task in tasks:
        for start, stop in zip(
            task.documents.offsets[:-1], task.documents.offsets[1:], strict=True
        ):
            total += 1
            for token in np.unique(task.documents.ids[start:stop]).tolist():
                frequency[token] = frequency.get(token, 0) + 1
    states, targets = [], []
    for task in tasks:
        average = np.diff(task.documents.offsets).mean()
        for texts, saturated in ((task.documents, True), (task.queries, False)):
            for start, stop in zip(texts.offsets[:-1], texts.offsets[1:], strict=True):
                ids, inverse, counts = np.unique(
                    texts.ids[start:stop], return_inverse=True, return_counts=True
                )
                seen = np.array([frequency.get(token, 0) for token in ids.tolist()])
                weight = np.sqrt(np.log1p((total - seen + 0.5) / (seen + 0.5)))
                if saturated:
                    norm = 1.2 * (0.25 + 0.75 * (stop - start) / average)
                    weight = weight * 2.2 * counts / (counts + norm)
                weight[np.isin(ids, SPECIAL_TOKENS)] = 0
                targets.append(weight[inverse])
                states.append(texts.hidden[start:stop])
    features = np.concatenate(states).astype(np.float32)
    target = np.concatenate(targets).astype(np.float32)
    mean, target_mean = features.mean(0), target.mean()
    features -= mean
    gram = features.T @ features / len(features) + penalty * np.eye(features.shape[1])
    weight = np.linalg.solve(gram, features.T @ (target - target_mean) / len(features))
    return weight.astype(np.float32), np.float32(target_mean - weight @ mean)
