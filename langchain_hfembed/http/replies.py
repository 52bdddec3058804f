"""Replies of a server, once it is sure that they are what was asked for. No I/O."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import numpy as np

from langchain_hfembed.errors import InvalidResponseError
from langchain_hfembed.http.tei import EMBED_SPARSE
from langchain_hfembed.vectors import FloatArray, SparseVector

_INDEX, _VALUE = itemgetter("index"), itemgetter("value")
_NUMBERS = {float, int, type(None)}  # null is how a NaN arrives
_LARGEST_INDEX = 2**31 - 1
_A_SPLADE = f"Check that the URL is {EMBED_SPARSE} of a TEI with a SPLADE model"
_NO_PAIRS = f"they are not lists of index and value. {_A_SPLADE}"


def read_vectors(reply: object, expected: int) -> list[list[float]]:
    """Dense vectors out of a reply, once it is sure that each text has one.

    Args:
        reply: The reply's JSON: `[[float]]`, OpenAI's `{"data": [{"index", "embedding"}]}`, or
            `{"embeddings": [[float]]}`.
        expected: How many texts were sent.

    Returns:
        One vector a text, in the order in which they were sent.

    Raises:
        InvalidResponseError: If there are more or fewer vectors than texts, they differ in length,
            are nested (token vectors), or hold null, NaN or infinity; `.indices` are positions in
            the request.
    """
    vectors = _one_a_text(
        _unwrapped(reply, expected), expected, "Check that the URL is an embedding endpoint"
    )
    everything = range(expected)
    if any(isinstance(row, list) and row and isinstance(row[0], list) for row in vectors):
        raise InvalidResponseError(
            "the server answered with one vector a token, not one a text. Deploy the model with "
            "a pooling (TEI, or the sentence-embeddings task)",
            indices=everything,
        )
    lengths = [len(row) for row in vectors if isinstance(row, list) and row]
    usual = max(set(lengths), key=lengths.count, default=-1)
    types = [set(map(type, row)) if isinstance(row, list) else set() for row in vectors]
    odd = [
        position
        for position, found in enumerate(types)
        if not found or len(vectors[position]) != usual or not found <= _NUMBERS
    ]
    if odd:
        raise InvalidResponseError(
            f"the vectors for {len(odd)} of {expected} texts are not lists of numbers of one "
            "length",
            indices=odd,
        )
    floats = [
        row if found == {float} else _as_floats(row)
        for row, found in zip(vectors, types, strict=True)
    ]
    if bad := [position for position, row in enumerate(floats) if not _is_finite(row)]:
        raise InvalidResponseError(
            f"the vectors for {len(bad)} of {expected} texts hold null, NaN or infinity. The "
            "server's model overflows: try float32 there",
            indices=bad,
        )
    return floats


def _one_a_text(vectors: object, expected: int, remedy: str) -> list[Any]:
    """The vectors, if there are as many as texts."""
    if isinstance(vectors, list) and len(vectors) == expected:
        return vectors
    # Nothing of the reply is quoted here: it may hold what it was sent.
    count = f"{len(vectors)} vectors" if isinstance(vectors, list) else type(vectors).__name__
    raise InvalidResponseError(
        f"the server answered {expected} texts with {count}; none of them was used. {remedy}",
        indices=range(expected),
    )


def _as_floats(row: list[float | int | None]) -> list[float]:
    """Floats, with NaN for what can't be one."""
    try:
        return [math.nan if value is None else float(value) for value in row]
    except OverflowError:
        return [math.nan]


def _is_finite(row: list[float]) -> bool:
    # A sum is quickest, and is finite if all of them are, unless they overflow together.
    return math.isfinite(sum(row)) or all(map(math.isfinite, row))


def _unwrapped(reply: object, expected: int) -> object:
    """The vectors of a reply, whatever they are wrapped in."""
    if not isinstance(reply, dict):
        return reply
    data = reply.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        return reply.get("embeddings", reply)
    if any("index" in item for item in data):
        # Providers may answer in another order than they were asked in.
        by_index = {repr(item.get("index")): item for item in data}
        if by_index.keys() != {repr(index) for index in range(len(data))}:
            raise InvalidResponseError(
                f"the server numbered its {len(data)} vectors otherwise than 0 to {len(data) - 1}, "
                "so that vectors can't be matched to texts",
                indices=range(expected),
            )
        data = [by_index[repr(index)] for index in range(len(data))]
    return [item.get("embedding") for item in data]


def read_sparse(reply: object, expected: int) -> list[SparseVector]:
    """Sparse vectors out of a reply of `/embed_sparse`, in the order in which texts were sent.

    Args:
        reply: The reply's JSON: `[[{"index", "value"}]]`, indices in any order.
        expected: How many texts were sent.

    Returns:
        One vector a text, without the weights that are zero or below.

    Raises:
        InvalidResponseError: If there are more or fewer vectors than texts, they are dense, or one
            has an index twice, an index that is none, or a weight of null, NaN or infinity;
            `.indices` are positions in the request.
    """
    rows = _one_a_text(reply, expected, _A_SPLADE)
    if any(isinstance(row, list) and row and type(row[0]) in _NUMBERS for row in rows):
        raise InvalidResponseError(
            f"the server answered with dense vectors, not sparse ones. {_A_SPLADE}",
            indices=range(expected),
        )
    vectors = []
    faults: dict[int, str] = {}
    for position, row in enumerate(rows):
        try:
            vectors.append(_sparse_vector(row))
        except ValueError as error:  # noqa: PERF203 - all that are at fault are named
            faults[position] = str(error)
    if faults:
        raise InvalidResponseError(
            f"the sparse vectors for {len(faults)} of {expected} texts can't be used: "
            f"{next(iter(faults.values()))}",
            indices=faults,
        )
    return vectors


def _sparse_vector(row: object) -> SparseVector:
    """A text's weights by token.

    Raises:
        ValueError: If they can't be used; its message says why.
    """
    if not isinstance(row, list):
        raise ValueError(_NO_PAIRS)
    try:
        indices, values = list(map(_INDEX, row)), list(map(_VALUE, row))
    except (TypeError, KeyError):
        raise ValueError(_NO_PAIRS) from None
    if not {*map(type, indices)} <= {int} or not {*map(type, values)} <= _NUMBERS:
        raise ValueError(_NO_PAIRS)
    if indices and not 0 <= min(indices) <= max(indices) <= _LARGEST_INDEX:
        raise ValueError("an index is not from 0 to 2**31 - 1")
    weights = _as_float32(values)
    if not np.isfinite(weights).all():
        raise ValueError(
            "they hold null, NaN or infinity. The server's model overflows: try float32 there"
        )
    tokens = np.array(indices, np.int32)
    order = tokens.argsort()
    tokens, weights = tokens[order], weights[order]
    if (tokens[1:] == tokens[:-1]).any():
        raise ValueError("an index occurs twice")
    return SparseVector(tokens[weights > 0], weights[weights > 0])


def _as_float32(values: list[float | int | None]) -> FloatArray:
    """As an array, with NaN for null, and infinity for what is too large."""
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(np.float32)
    except OverflowError:  # of a whole number
        return np.array([math.inf], np.float32)


def read_ranks(reply: object, expected: int) -> list[float]:
    """Relevance scores out of a reply of `/rerank`, in the order in which texts were sent.

    Raises:
        InvalidResponseError: Unless there is one finite score for each text.
    """
    try:
        scores = {item["index"]: float(item["score"]) for item in reply}  # type: ignore[attr-defined]
        count = len(reply)  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError, OverflowError):
        scores, count = {}, 0
    ordered = [scores.get(position, math.nan) for position in range(expected)]
    if count != expected or not all(map(math.isfinite, ordered)):
        raise InvalidResponseError(
            f"the server did not answer {expected} texts with a finite score each. Check that the "
            "URL is a TEI with a reranker",
            indices=range(expected),
        )
    return ordered
