"""Three scores become one: weighted sums and reciprocal ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.scoring import Scores, ranks
from langchain_hfembed.vectors import VIEWS, FloatArray, View

Fusion = Callable[[Scores], NDArray[np.floating]]
"""Takes the scores of n candidates and returns one score each, shape `(n,)`, higher is better."""

Normalization = Literal["min_max", "dbsf"]


def min_max(scores: FloatArray) -> FloatArray:
    """Map scores linearly so that the lowest is 0 and the highest 1.

    Scores that are all equal tell nothing apart: they become 1 where they are above zero, which
    is a match, and 0 elsewhere.
    """
    wide = scores.astype(np.float64)  # the widest range is more than float32 holds
    low, high = wide.min(), wide.max()
    if low == high:
        return np.full_like(scores, float(high > 0))
    scaled: FloatArray = ((wide - low) / (high - low)).astype(np.float32)
    return scaled


def dbsf(scores: FloatArray) -> FloatArray:
    """Map mean ± 3 standard deviations to [0, 1], and clip what lies outside.

    Scores that are all equal are treated as in `min_max`.

    Source:
        Distribution-based score fusion, Mazzeschi 2023, as in Qdrant.
    """
    # In float64: a deviation that float32 rounds to zero would divide by zero.
    wide = scores.astype(np.float64)
    deviation = wide.std()
    if wide.min() == wide.max() or deviation == 0:
        return min_max(scores)
    mapped = (wide - wide.mean()) / (6 * deviation) + 0.5
    clipped: FloatArray = np.clip(mapped, 0, 1).astype(np.float32)
    return clipped


_NORMALIZATIONS: dict[str | None, Callable[[FloatArray], FloatArray]] = {
    "min_max": min_max,
    "dbsf": dbsf,
    None: lambda scores: scores,
}


@dataclass(frozen=True)
class WeightedSum:
    """A weighted mean of the views' scores, each first brought to one scale.

    The sum is divided by the weights of the views that are present, so that an absent view
    changes nothing but its own part.

    Attributes:
        dense: Weight of the dense score, 0 or more.
        sparse: Weight of the sparse score.
        multi_vector: Weight of the multi-vector score.
        normalization: `"min_max"` maps each view's scores over the candidates to [0, 1]; `"dbsf"`
            does so by mean and deviation; None takes them as they are, which is BGE-M3's own
            sum, on a scale that does not depend on the other candidates: use it with thresholds.

    Raises:
        ValueError: If a weight is negative or not finite, all are 0, or the name of the
            normalization is unknown.

    Source:
        Weights: the BGE-M3 model card. Normalised sums: Bruch et al. 2023, arXiv:2210.11934.
    """

    dense: float = 0.4
    sparse: float = 0.2
    multi_vector: float = 0.4
    normalization: Normalization | None = "min_max"

    def __post_init__(self) -> None:
        _check_weights(self)
        if self.normalization not in _NORMALIZATIONS:
            raise ValueError(
                f"normalization={self.normalization!r} is unknown; "
                f"choose one of {', '.join(map(repr, _NORMALIZATIONS))}"
            )

    def __call__(self, scores: Scores) -> FloatArray:
        """Fuse the scores of n candidates into one each, shape `(n,)`."""
        return _sum(self.shares(scores), len(scores))

    def shares(self, scores: Scores) -> dict[View, NDArray[np.float64]]:
        """What each view adds to the fused scores, shape `(n,)` each."""
        if not len(scores):
            return {}
        normalize = _NORMALIZATIONS[self.normalization]
        total = _total_weight(self, scores)
        return {
            # In float64: in float32 weights may add up to 1.0000001.
            view: getattr(self, view) / total * normalize(values).astype(np.float64)
            for view, values in scores.present()
        }


@dataclass(frozen=True)
class ReciprocalRankFusion:
    """The weighted sum of 1 / (rank_constant + rank), ranks counting from 1 over the candidates.

    It looks at orders alone, so scales do not matter; nor does how far ahead a document is.

    Attributes:
        rank_constant: Larger values flatten the lead of the first ranks; above -1.
        dense: Weight of the dense ranking, 0 or more.
        sparse: Weight of the sparse ranking.
        multi_vector: Weight of the multi-vector ranking.

    Raises:
        ValueError: If a weight is negative or not finite, or all are 0, or the constant is -1 or
            below.

    Source:
        Cormack, Clarke and Büttcher 2009, doi:10.1145/1571941.1572114.
    """

    rank_constant: float = 60
    dense: float = 1
    sparse: float = 1
    multi_vector: float = 1

    def __post_init__(self) -> None:
        _check_weights(self)
        if not self.rank_constant > -1 or not math.isfinite(self.rank_constant):
            raise ValueError(f"rank_constant must be above -1; got {self.rank_constant}")

    def __call__(self, scores: Scores) -> FloatArray:
        """Fuse the scores of n candidates into one each, shape `(n,)`."""
        return _sum(self.shares(scores), len(scores))

    def shares(self, scores: Scores) -> dict[View, NDArray[np.float64]]:
        """What each view adds to the fused scores, shape `(n,)` each."""
        if not len(scores):
            return {}
        _total_weight(self, scores)
        return {
            view: getattr(self, view) / (self.rank_constant + ranks(values))
            for view, values in scores.present()
        }


def _sum(shares: Mapping[View, NDArray[np.float64]], count: int) -> FloatArray:
    fused: FloatArray = sum(shares.values(), np.zeros(count)).astype(np.float32)
    return fused


def fuse(fusion: Fusion, scores: Scores) -> FloatArray:
    """Apply a fusion, and hold what it returns against what a fusion may return.

    Raises:
        ValueError: If the result is not one finite number a candidate.
    """
    if not callable(fusion):
        raise ValueError(
            f"fusion={fusion!r} must be WeightedSum(), ReciprocalRankFusion() or a function of "
            "Scores"
        )
    fused = np.asarray(fusion(scores), np.float32)
    if fused.shape != (len(scores),) or not np.isfinite(fused).all():
        raise ValueError(
            f"the fusion {fusion!r} must return {len(scores)} finite scores, shape "
            f"({len(scores)},); got shape {fused.shape}. An absent view is None in its argument"
        )
    return fused


def _check_weights(fusion: WeightedSum | ReciprocalRankFusion) -> None:
    weights = {view: getattr(fusion, view) for view in VIEWS}
    for view, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"the weight {view}={weight} must be a finite number, 0 or more")
    total = sum(weights.values())
    if not total:
        raise ValueError("all weights are 0; give at least one view a weight above 0")
    if math.isinf(total):
        raise ValueError(f"the weights add up to infinity: {weights}; take smaller ones")


def _total_weight(fusion: WeightedSum | ReciprocalRankFusion, scores: Scores) -> float:
    views = [view for view, _ in scores.present()]
    total: float = sum(getattr(fusion, view) for view in views)
    if not total:
        raise ValueError(
            f"{fusion} gives no weight to any view that this encoder has: {', '.join(views)}"
        )
    return total
