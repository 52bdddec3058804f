"""Documents with their vectors from one index to another, directly or through a folder of files."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from langchain_hfembed.errors import HybridIndexError, InvalidInputError
from langchain_hfembed.index.base import HybridIndex, IndexModel, IndexRecord, batched
from langchain_hfembed.vectors import FloatArray, HybridEmbedding, SparseVector, check_views

_FORMAT = "langchain-hfembed export"
_VERSION = 1
_MANIFEST = "index.json"
# What NumPy, zipfile and json say about damaged files.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RuntimeError,
    BadZipFile,
    zlib.error,
)
Progress = Callable[[int], object]


def copy_index(
    source: HybridIndex,
    target: HybridIndex,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> int:
    """Store all documents of an index in another one, without embedding them again.

    Interrupted, it can be called again: a document that is there already is replaced. Other threads
    that use the source's object wait meanwhile; for a long copy, open it once more.

    Args:
        source: Where from; all of it in one state, if it has states.
        target: Where to, of the same model, or empty. What it holds already stays.
        batch_size: Documents stored at once.
        progress: Called with the number of documents, each time that some are stored.

    Returns:
        How many documents were stored.

    Raises:
        IndexMismatchError: If the target is of another model.
        InvalidInputError: If both are one and the same object.
    """
    if source is target:
        raise InvalidInputError(f"{source!r} is both the source and the target")
    with source.snapshot():
        return _store(source.records(), source.model, target, batch_size, progress)


def export_index(
    index: HybridIndex,
    folder: str | PathLike[str],
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> int:
    """Write an index into a folder, as JSON Lines and arrays that any program can read.

    For each batch there is `00000.jsonl`, with the `id`, `text` and `metadata` of a document a
    line, and `00000.npz` with NumPy arrays: `dense` (n, dim); `sparse_lengths` (n,),
    `sparse_indices` and `sparse_values`, one document after the other; `multi_vector_lengths` (n,)
    and `multi_vector` (tokens, dim), likewise; `token_pooling`, a number. `index.json`, written
    last, names the model. Other threads that use the index's object wait meanwhile; for a long
    export, open it once more.

    Args:
        index: The index; all of it in one state, if it has states.
        folder: A new or empty folder.
        batch_size: Documents a file.
        progress: Called with the number of documents, each time that some are written.

    Returns:
        How many documents were written.

    Raises:
        HybridIndexError: If the folder is not empty, or can't be written.
    """
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        is_empty = not any(root.iterdir())
    except OSError as error:
        raise HybridIndexError(f"{root} can't be made a folder: {error.strerror}") from error
    if not is_empty:
        raise HybridIndexError(
            f"the folder {root} is not empty; give a new one, or delete what an interrupted export "
            "has left there"
        )
    documents = batches = 0
    with index.snapshot():
        model = index.model
        for batch in batched(index.records(), batch_size):
            _write(root, batches, batch)
            batches += 1
            documents += len(batch)
            if progress is not None:
                progress(len(batch))
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "documents": documents,
        "batches": batches,
        "model": None if model is None else asdict(model),
    }
    _write_file(root / _MANIFEST, json.dumps(manifest, indent=2).encode())
    return documents


def import_index(
    folder: str | PathLike[str],
    index: HybridIndex,
    *,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> int:
    """Store the documents of a folder that `export_index` wrote.

    Args:
        folder: The folder.
        index: Where to, of the same model, or empty. What it holds already stays.
        batch_size: Documents stored at once.
        progress: Called with the number of documents, each time that some are stored.

    Returns:
        How many documents were stored.

    Raises:
        HybridIndexError: If the folder holds no whole export. What was read before stays stored.
        IndexMismatchError: If the index is of another model.
    """
    root = Path(folder)
    manifest = _manifest(root)
    records = (record for number in range(manifest.batches) for record in _read(root, number))
    stored = _store(records, manifest.model, index, batch_size, progress)
    if stored != manifest.documents:
        raise HybridIndexError(
            f"the export {root} has {stored} documents, not {manifest.documents} as {_MANIFEST} "
            "says. Those were stored; export again for the others"
        )
    return stored


def _store(
    records: Iterable[IndexRecord],
    model: IndexModel | None,
    target: HybridIndex,
    batch_size: int,
    progress: Progress | None,
) -> int:
    if model is not None:
        target.bind(model)
    stored = 0
    for batch in batched(records, batch_size):
        target.upsert(batch)
        stored += len(batch)
        if progress is not None:
            progress(len(batch))
    return stored


@dataclass(frozen=True)
class _Manifest:
    documents: int
    batches: int
    model: IndexModel | None


def _manifest(root: Path) -> _Manifest:
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        if (manifest["format"], manifest["version"]) != (_FORMAT, _VERSION):
            raise HybridIndexError(
                f"{root / _MANIFEST} is of {manifest['format']!r}, version {manifest['version']}; "
                f"this version of langchain-hfembed reads {_FORMAT!r}, version {_VERSION}"
            )
        model = manifest["model"]
        if model is not None:
            model = IndexModel(model["name"], model["fingerprint"], check_views(model["views"]))
        return _Manifest(int(manifest["documents"]), int(manifest["batches"]), model)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise HybridIndexError(
            f"{root} is no finished export: {_MANIFEST} is missing or can't be read ({error!r}). "
            "Export again"
        ) from error


def _write(root: Path, number: int, batch: list[IndexRecord]) -> None:
    lines = (
        json.dumps({"id": record.id, "text": record.text, "metadata": record.metadata})
        for record in batch
    )
    _write_file(root / f"{number:05}.jsonl", "\n".join(lines).encode())
    arrays = io.BytesIO()
    pooling = np.array(batch[0].token_pooling)
    np.savez(arrays, token_pooling=pooling, **_arrays([record.embedding for record in batch]))
    _write_file(root / f"{number:05}.npz", arrays.getvalue())


def _write_file(path: Path, content: bytes) -> None:
    """Write a file so that a loss of power can't take it back."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise HybridIndexError(
            f"{path} can't be written: {error.strerror}. Delete the folder {path.parent}, see to "
            "that, and export again"
        ) from error


def _arrays(embeddings: list[HybridEmbedding]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    dense = [embedding.dense for embedding in embeddings if embedding.dense is not None]
    sparse = [embedding.sparse for embedding in embeddings if embedding.sparse is not None]
    tokens = [e.multi_vector for e in embeddings if e.multi_vector is not None]
    if dense:
        arrays["dense"] = np.stack(dense)
    if sparse:
        arrays["sparse_lengths"] = np.array([*map(len, sparse)])
        arrays["sparse_indices"] = np.concatenate([vector.indices for vector in sparse])
        arrays["sparse_values"] = np.concatenate([vector.values for vector in sparse])
    if tokens:
        arrays["multi_vector_lengths"] = np.array([*map(len, tokens)])
        arrays["multi_vector"] = _narrowest(np.concatenate(tokens))
    return arrays


def _narrowest(vectors: FloatArray) -> NDArray[np.floating]:
    """As float16 where that loses nothing, as for vectors that were stored so."""
    halves = vectors.astype(np.float16)
    return halves if (halves == vectors).all() else vectors


def _read(root: Path, number: int) -> Iterator[IndexRecord]:
    path = root / f"{number:05}.npz"
    try:
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").split("\n")
        documents = [json.loads(line) for line in lines if line]
        # Opened here: NumPy leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        pooling = int(arrays.pop("token_pooling"))
        embeddings = _embeddings(arrays, len(documents))
        yield from [
            _record(document, embedding, pooling)
            for document, embedding in zip(documents, embeddings, strict=True)
        ]
    except _UNREADABLE as error:
        raise HybridIndexError(
            f"the export's files {path.with_suffix('')}.jsonl and .npz can't be read: {error!r}. "
            "Export again"
        ) from error


def _record(document: dict[str, Any], embedding: HybridEmbedding, pooling: int) -> IndexRecord:
    id_, text, metadata = document["id"], document["text"], document["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata of {id_!r} is no object")
    for value in (id_, text):
        value.encode()  # raises for what is no string, or half a surrogate pair
    return IndexRecord(id_, text, metadata, embedding, pooling)


def _embeddings(arrays: dict[str, NDArray[Any]], documents: int) -> list[HybridEmbedding]:
    nothing: list[Any] = [None] * documents
    dense = arrays.get("dense", nothing)
    sparse, tokens = nothing, nothing
    if "sparse_lengths" in arrays:
        lengths = arrays["sparse_lengths"]
        indices = _split(arrays["sparse_indices"], lengths)
        sparse = [*map(SparseVector, indices, _split(arrays["sparse_values"], lengths))]
    if "multi_vector" in arrays:
        tokens = _split(arrays["multi_vector"], arrays["multi_vector_lengths"])
    if {len(dense), len(sparse), len(tokens)} != {documents}:
        raise ValueError("not as many vectors as documents")
    return [*map(HybridEmbedding, dense, sparse, tokens)]


def _split(array: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    """What was put one after the other."""
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(array):
        raise ValueError("lengths that don't sum to the length of the array")
    return np.split(array, np.cumsum(lengths)[:-1])
