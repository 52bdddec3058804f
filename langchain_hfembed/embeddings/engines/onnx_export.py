"""A checkpoint as an ONNX file: the one that lies in its folder, or one made once in the cache."""

from __future__ import annotations

import hashlib
import importlib
import logging
from pathlib import Path

from langchain_hfembed.cache import cache_root, make_folder
from langchain_hfembed.embeddings.checkpoint import Checkpoint, Quantization
from langchain_hfembed.errors import CheckpointError, EmbeddingError

logger = logging.getLogger(__name__)

_IN_THE_FOLDER = ("onnx/model.onnx", "model.onnx")
_FILE = "model.onnx"
_FILES = (_FILE, f"{_FILE}.data")
_LAYOUT_VERSION = 2  # to be raised when what is written changes: old files are then left alone


def find_export(checkpoint: Checkpoint, quantization: Quantization | None) -> Path:
    """The ONNX file of a checkpoint, made where there is none.

    Args:
        checkpoint: The folder. An export in it is used for float32; it would be worse in int8 than
            what is made from the weights.
        quantization: None for float32.

    Raises:
        CheckpointError: If there is none, and the model is of a kind that can't be exported here.
        EmbeddingError: If the cache can't be written to.
        ImportError: If `onnx`, which is needed to make one, is not installed.
    """
    if quantization is None:
        for name in _IN_THE_FOLDER:
            if (given := checkpoint.folder / name).is_file():
                return given
    version = f"{_LAYOUT_VERSION} {checkpoint.content_hash}"
    digest = hashlib.sha256(version.encode()).hexdigest()[:12]
    name = f"{_readable_name(checkpoint.folder)}-onnx-{quantization or 'float32'}-{digest}"

    def write(folder: Path) -> None:
        require("onnx")
        logger.info("exporting %s to %s, once", checkpoint.folder, cache_root() / name)
        if quantization is None:
            _export(checkpoint, folder / _FILE)
        else:
            float32 = folder / "float32.onnx"
            _export(checkpoint, float32, for_int8=True)
            _quantize(float32, folder / _FILE)
            for file in folder.glob("float32*"):
                file.unlink()
        for file in folder.iterdir():  # onnx makes some that only their owner may read
            file.chmod(folder.stat().st_mode & 0o666)

    try:
        return make_folder(cache_root() / name, _FILES, write) / _FILE
    except OSError as error:
        if error.errno is None:  # not the system's, but transformers'
            raise
        raise EmbeddingError(
            f"the export of {checkpoint.folder} can't be written to {cache_root()}: {error}. Set "
            "HFEMBED_CACHE to a folder that can be written to, with room for the model twice"
        ) from error


def require(package: str) -> None:
    """Raise ImportError, saying what to install, if a package of the extra is missing."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f'engine="onnx" needs the package {package}: pip install "langchain-hfembed[onnx]"'
        ) from error


def _readable_name(folder: Path) -> str:
    """Of the model; in the Hub's cache a folder is named after its commit."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.removeprefix("models--")
    return folder.name


def _export(checkpoint: Checkpoint, path: Path, *, for_int8: bool = False) -> None:
    from langchain_hfembed.embeddings.engines.bert import Affine, Bert, is_bert
    from langchain_hfembed.embeddings.engines.heads import read_heads
    from langchain_hfembed.embeddings.engines.onnx_graph import save_graph
    from langchain_hfembed.embeddings.engines.pretrained import load_model

    model = load_model(checkpoint)
    if not is_bert(model):
        raise CheckpointError(
            f"{checkpoint.folder} holds a model of type {model.config.model_type!r}, which can't "
            'be exported here. For float32, export it with "optimum-cli export onnx --task '
            f'feature-extraction" to {checkpoint.folder / _IN_THE_FOLDER[0]}; or take '
            'engine="torch"'
        )
    sparse_head, colbert_head = read_heads(checkpoint.folder, model.config.hidden_size)
    save_graph(
        Bert(model), Affine.of(sparse_head), Affine.of(colbert_head), path, for_int8=for_int8
    )


def _quantize(source: Path, path: Path) -> None:
    """Weights in 8 bits, a scale a column; what they are multiplied with, at run time."""
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    from langchain_hfembed.embeddings.engines.onnx_graph import HEAD_PRODUCTS

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=list(HEAD_PRODUCTS),
        per_channel=True,
        # 7 bits: with 8, sums overflow on processors without VNNI.
        reduce_range=True,
        use_external_data_format=True,
        # Of tensors whose type can't be inferred, behind Microsoft's operators.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
