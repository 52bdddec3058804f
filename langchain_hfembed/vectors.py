"""What a text becomes: a dense vector, a sparse vector, one vector a token, or any of the three."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

View = Literal["dense", "sparse", "multi_vector"]
VIEWS: tuple[View, ...] = ("dense", "sparse", "multi_vector")

_MAX_INDEX = np.iinfo(np.int32).max

T = TypeVar("T")
FloatArray = NDArray[np.float32]


def view_title(view: str) -> str:
    """What prose calls a view: `multi-vector`; any other name as it is."""
    return view.replace("_", "-") if view in VIEWS else view


def owned(values: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """A read-only copy, so that no later change to `values` reaches it."""
    array = np.array(values, dtype=dtype, order="C", copy=True)
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class PerView(Generic[T]):
    """One value for each view; None for a view that is absent."""

    dense: T | None = None
    sparse: T | None = None
    multi_vector: T | None = None

    def present(self) -> Iterator[tuple[View, T]]:
        """The views that are there, with their values, in the order of `VIEWS`."""
        for view in VIEWS:
            value = getattr(self, view)
            if value is not None:
                yield view, value

    def to_dict(self) -> dict[str, T | None]:
        """The three values by name, None where a view is absent."""
        return {view: getattr(self, view) for view in VIEWS}


@dataclass(frozen=True, eq=False)
class SparseVector:
    """Weights of the tokens of a text, all others being zero.

    Attributes:
        indices: Token ids, shape `(nnz,)`, int32, strictly increasing, not negative.
        values: Their weights, shape `(nnz,)`, float32, above zero.

    Raises:
        ValueError: If the arrays have other shapes, or break one of these rules.
    """

    indices: NDArray[np.int32]
    values: FloatArray

    def __post_init__(self) -> None:
        given = np.asarray(self.indices)
        # Before the cast to int32, which would cut 1.5 down to 1 and turn 2**32 into 0.
        if given.size and (
            given.dtype.kind not in "iu" or given.min() < 0 or given.max() > _MAX_INDEX
        ):
            raise ValueError("indices must be whole numbers from 0 to 2**31 - 1")
        indices, values = owned(given, np.int32), owned(self.values, np.float32)
        if indices.ndim != 1 or indices.shape != values.shape:
            raise ValueError(
                "a sparse vector takes one value an index, both of shape (nnz,); "
                f"got indices {indices.shape} and values {values.shape}"
            )
        if (np.diff(indices) <= 0).any():
            raise ValueError(
                "indices must be strictly increasing; SparseVector.from_dict() sorts them for you"
            )
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError("values must be finite and above zero; leave out the others")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "values", values)

    @classmethod
    def from_dict(cls, weights: Mapping[int, float]) -> SparseVector:
        """Build one from token weights by id, such as FlagEmbedding's `lexical_weights`.

        Args:
            weights: Weights by token id. Ids may be strings of digits. Weights of zero or below,
                and those too small for float32, are left out.
        """
        pairs = sorted((int(token), float(weight)) for token, weight in weights.items())
        indices: NDArray[Any] = np.array([token for token, _ in pairs], np.int64)
        values = np.array([weight for _, weight in pairs], np.float32)
        kept = ~(values <= 0)  # not `values > 0`: NaN must come to light
        return cls(indices[kept], values[kept])

    def to_dict(self) -> dict[int, float]:
        """The weights by token id, in plain Python numbers."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def __len__(self) -> int:
        """How many tokens have a weight."""
        return int(self.indices.size)


@dataclass(frozen=True, eq=False)
class HybridEmbedding:
    """The views of one text. It owns its arrays, and they can't be written to.

    Attributes:
        dense: One vector for the text, shape `(dim,)`, float32.
        sparse: Its token weights.
        multi_vector: One vector a token, shape `(tokens, dim)`, float32, at least one row.

    Raises:
        ValueError: If an array has another shape, or holds NaN or infinity.
        TypeError: If `sparse` is no SparseVector.
    """

    dense: FloatArray | None = None
    sparse: SparseVector | None = None
    multi_vector: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, ndim, shape in (("dense", 1, "(dim,)"), ("multi_vector", 2, "(tokens, dim)")):
            value = getattr(self, name)
            if value is None:
                continue
            array = owned(value, np.float32)
            if array.ndim != ndim or 0 in array.shape:
                raise ValueError(f"{name} must have shape {shape}, not empty; got {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity; check the model and its dtype")
            object.__setattr__(self, name, array)
        if not isinstance(self.sparse, (SparseVector, type(None))):
            raise TypeError(
                f"sparse must be a SparseVector, got {type(self.sparse).__name__}; "
                "SparseVector.from_dict() makes one"
            )

    def __repr__(self) -> str:
        """Shapes, not numbers: a text of BGE-M3 has thousands."""
        dense, sparse, tokens = self.dense, self.sparse, self.multi_vector
        return (
            f"HybridEmbedding(dense={None if dense is None else dense.shape}, "
            f"sparse={None if sparse is None else f'{len(sparse)} weights'}, "
            f"multi_vector={None if tokens is None else tokens.shape})"
        )

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are there, in the order of `VIEWS`."""
        return tuple(view for view in VIEWS if getattr(self, view) is not None)


def check_views(views: Iterable[str]) -> tuple[View, ...]:
    """The views asked for, in the order of `VIEWS`.

    Raises:
        ValueError: If there are none, or one is not a view.
    """
    asked = (views,) if isinstance(views, str) else tuple(views)
    unknown = [view for view in asked if view not in VIEWS]
    if unknown or not asked:
        raise ValueError(f"views must be one or more of {VIEWS}; got {asked}")
    return tuple(view for view in VIEWS if view in asked)
