"""Where a BGE-M3 checkpoint lies, whether it is whole, and what tells it from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from langchain_hfembed.errors import CheckpointError, ModelNotFoundError

Pooling = Literal["cls", "mean"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
EngineName = Literal["torch", "onnx"]
Quantization = Literal["int8"]

SPARSE_HEAD, COLBERT_HEAD = "sparse_linear.pt", "colbert_linear.pt"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")  # not what a trainer leaves beside them
_TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
# Left out: exports to other frameworks (2 GB in BAAI/bge-m3 alone) and pictures.
_ON_THE_HUB = ("*.json", *_WEIGHT_FILES, "*.pt", "*.model", "*.txt")
_NOT_FROM_THE_HUB = ("onnx/*", "openvino/*")
_HASHED_WHOLE = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    SPARSE_HEAD,
    COLBERT_HEAD,
    *_TOKENIZERS,
)
_SMALL, _SAMPLE, _SAMPLE_EVERY = 32 << 20, 4 << 10, 4 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A complete folder in BGE-M3's format.

    Attributes:
        folder: Where it lies.
        pooling: How its dense vector is made: from the first token, or as the mean of all.
        content_hash: Equal for equal contents, wherever the folder lies.
    """

    folder: Path
    pooling: Pooling
    content_hash: str


def find_checkpoint(
    model_name: str,
    *,
    revision: str | None = None,
    cache_folder: str | None = None,
    pooling: Pooling | None = None,
) -> Checkpoint:
    """Find a checkpoint on the disk or the Hub, and see whether it is complete.

    Args:
        model_name: A folder, or a model id on the Hub.
        revision: Branch, tag or commit on the Hub.
        cache_folder: Where models from the Hub are kept; None for Hugging Face's default.
        pooling: Overrides what the checkpoint says.

    Raises:
        ModelNotFoundError: If there is no such folder or model, or the Hub is out of reach.
        CheckpointError: If a file is missing, or asks for a pooling that BGE-M3 does not have.
    """
    folder = Path(model_name).expanduser()
    if not folder.is_dir():
        if _looks_like_path(model_name):
            raise ModelNotFoundError(
                f"there is no model folder {model_name!r}; give the path of a folder that holds "
                f"config.json, {SPARSE_HEAD} and {COLBERT_HEAD}, or a model id of the Hub"
            )
        folder = _from_the_hub(model_name, revision, cache_folder)
    if missing := _missing(folder):
        raise CheckpointError(
            f"{folder} is not a complete BGE-M3 checkpoint: it has no {' and no '.join(missing)}. "
            "Copy the whole folder of the model. Models other than BGE-M3 have no such heads; any "
            "LangChain Embeddings of theirs serves a HybridVectorStore as its dense view"
        )
    return Checkpoint(folder, pooling or _stated_pooling(folder), _content_hash(folder))


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _missing(folder: Path) -> list[str]:
    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    needed = {
        "config.json": has("config.json"),
        "weights (model.safetensors or pytorch_model.bin)": has(*_WEIGHTS),
        "tokenizer (tokenizer.json)": has(*_TOKENIZERS),
        SPARSE_HEAD: has(SPARSE_HEAD),
        COLBERT_HEAD: has(COLBERT_HEAD),
    }
    return [name for name, there in needed.items() if not there]


def _from_the_hub(model_name: str, revision: str | None, cache_folder: str | None) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                model_name,
                revision=revision,
                cache_dir=cache_folder,
                allow_patterns=list(_ON_THE_HUB),
                ignore_patterns=list(_NOT_FROM_THE_HUB),
                local_files_only=local_files_only,
            )
        )

    try:
        # What is there already needs no network, which may be slow to say that it is not there.
        folder = _unless_incomplete(fetch)
        return folder if folder is not None else fetch(local_files_only=False)
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"{model_name!r} is neither a folder nor a valid model id of the Hub: {error}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, HTTPError, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ModelNotFoundError(
            f"the model {model_name!r} is not on this machine and could not be fetched from the "
            f"Hugging Face Hub ({reason}). Check the name; with a network, run "
            f"`hf download {model_name}` (add `--token` for a private model); without one, copy "
            "the model's folder here and pass its path as model_name"
        ) from error


def _unless_incomplete(fetch: Callable[[bool], Path]) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = fetch(True)
    except LocalEntryNotFoundError:
        return None
    return None if _missing(folder) else folder


def _stated_pooling(folder: Path) -> Pooling:
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "cls"
    try:
        stated = dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is not a JSON object: {error}") from error
    # Sentence Transformers wrote a flag a mode, and from 5.4 on the name of the mode.
    flags = [key for key, on in stated.items() if key.startswith("pooling_mode_") and on is True]
    mode = str(stated.get("pooling_mode") or "+".join(flags) or "cls")
    name = mode.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
    if name not in get_args(Pooling):
        raise CheckpointError(
            f"{file} asks for pooling {mode!r}; BGE-M3's format has cls and mean. Pass "
            'pooling="cls" or pooling="mean" to overrule it'
        )
    return cast(Pooling, name)


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name in _HASHED_WHOLE:
            digest.update(file.name.encode() + file.read_bytes())
        elif any(map(file.match, _WEIGHT_FILES)) and file.is_file():
            digest.update(file.name.encode() + _sampled(file))
    return digest.hexdigest()[:32]


def _sampled(file: Path) -> bytes:
    """All of a small file; of a large one its size and 4 KB of every 4 MB, so of each large matrix.

    To read 2 GB takes seconds.
    """
    size = file.stat().st_size
    if size <= _SMALL:
        return file.read_bytes()
    with file.open("rb") as stream:
        parts = [str(size).encode()]
        for offset in range(0, size, _SAMPLE_EVERY):
            stream.seek(offset)
            parts.append(stream.read(_SAMPLE))
    return b"".join(parts)
