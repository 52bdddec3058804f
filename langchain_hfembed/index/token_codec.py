"""Token vectors as bytes, in one of three precisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from langchain_hfembed.vectors import FloatArray

MultiVectorDtype = Literal["float16", "int8", "float32"]

_STEPS = 127


@dataclass(frozen=True)
class TokenCodec:
    """How the vector of a token is written.

    Attributes:
        dtype: `"int8"` divides each token by its largest value into 127 steps, and takes two bytes
            more for its scale.
        dim: Of a vector.

    Raises:
        ValueError: If these can't be.
    """

    dtype: str
    dim: int

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "int8", "float32") or self.dim < 1:
            raise ValueError(f"no token vectors are {self.dtype} of {self.dim} dimensions")

    @property
    def bytes_a_token(self) -> int:
        """What one vector takes."""
        return int(self._numpy().itemsize)

    def encode(self, vectors: FloatArray) -> bytes:
        """The bytes of unit vectors, shape `(tokens, dim)`."""
        if self.dtype != "int8":
            return vectors.astype(self.dtype).tobytes()
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        steps = np.rint(_STEPS * vectors / np.where(largest > 0, largest, 1))
        written = np.empty(len(vectors), self._numpy())
        written["steps"] = steps
        # So that what is read has length 1 again, which the largest value's own scale would not do.
        written["scale"] = 1 / np.maximum(np.linalg.norm(steps, axis=1), 1)
        return written.tobytes()

    def decode(self, blob: bytes) -> FloatArray:
        """The vectors, shape `(tokens, dim)`.

        Raises:
            ValueError: If these are not whole vectors.
        """
        written = np.frombuffer(blob, self._numpy())
        if self.dtype != "int8":
            vectors: FloatArray = written["values"].astype(np.float32, copy=False)
            return vectors
        scaled: FloatArray = written["steps"] * written["scale"].astype(np.float32)[:, None]
        return scaled

    def _numpy(self) -> np.dtype[Any]:
        if self.dtype == "int8":
            return np.dtype([("scale", "<f2"), ("steps", "i1", (self.dim,))])
        return np.dtype([("values", np.dtype(self.dtype).newbyteorder("<"), (self.dim,))])
