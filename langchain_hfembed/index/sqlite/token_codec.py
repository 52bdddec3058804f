"""Token vectors as bytes, in one of three precisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from langchain_hfembed.vectors import FloatArray

MultiVectorDtype = Literal["float16", "int8", "float32"]

_STEPS = 127
# What float16 has of a float32's bits, once it lies 13 bits higher; as a signed number.
_SIGN_EXPONENT_MANTISSA = np.int32(0x8FFFE000 - (1 << 32))
_BIAS = np.float32(2.0 ** (127 - 15))


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

    @cached_property
    def bytes_a_token(self) -> int:
        """What one vector takes."""
        return int(self._layout.itemsize)

    def encode(self, vectors: FloatArray) -> bytes:
        """The bytes of unit vectors, shape `(tokens, dim)`."""
        if self.dtype != "int8":
            return vectors.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes()
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        steps = np.rint(_STEPS * vectors / np.where(largest > 0, largest, 1))
        written = np.empty(len(vectors), self._layout)
        written["steps"] = steps
        # So that what is read has length 1 again, which the largest value's own scale would not do.
        written["scale"] = 1 / np.maximum(np.linalg.norm(steps, axis=1), 1)
        return written.tobytes()

    def decode(self, blobs: Iterable[bytes], out: FloatArray) -> None:
        """Read the vectors of documents into `out`, one after the other.

        Args:
            blobs: As `encode` wrote them.
            out: Shape `(tokens, dim)`, with as many rows as they have tokens.
        """
        end = 0
        for blob in blobs:
            start, end = end, end + len(blob) // self.bytes_a_token
            rows = out[start:end]
            if self.dtype == "float16":
                rows.view(np.int32)[:] = np.frombuffer(blob, "<i2").reshape(rows.shape)
                continue
            written = np.frombuffer(blob, self._layout)
            if self.dtype == "float32":
                rows[:] = written["values"]
            else:
                scales = written["scale"].astype(np.float32)[:, None]
                np.multiply(written["steps"], scales, out=rows)
        if self.dtype == "float16":
            _widen(out)

    @cached_property
    def _layout(self) -> np.dtype[Any]:
        if self.dtype == "int8":
            return np.dtype([("scale", "<f2"), ("steps", "i1", (self.dim,))])
        return np.dtype([("values", np.dtype(self.dtype).newbyteorder("<"), (self.dim,))])


def _widen(halves: FloatArray) -> None:
    """Make float32 of float16, whose bits these are, as integers, sign extended.

    Three times as fast as NumPy, which asks about infinities. Sign, exponent and mantissa move to
    where float32 has them; the product makes up for the other bias of the exponent. Infinity and
    NaN, which no vector holds, become numbers above 65,535.
    """
    bits = halves.view(np.int32)
    bits <<= 13
    bits &= _SIGN_EXPONENT_MANTISSA
    halves *= _BIAS
