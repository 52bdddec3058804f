"""A checkpoint as an ONNX file: the one that lies in its folder, or one made once in the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from langchain_hfembed.cache import cache_root, make_folder
from langchain_hfembed.embeddings.checkpoint import Checkpoint
from langchain_hfembed.embeddings.engines.loading import Quantization
from langchain_hfembed.errors import CheckpointError

logger = logging.getLogger(__name__)

_IN_THE_FOLDER = ("onnx/model.onnx", "model.onnx")
_FILE = "model.onnx"
_LAYOUT_VERSION = 1  # to be raised when what is written changes: old files are then left alone


def find_export(checkpoint: Checkpoint, quantization: Quantization | None) -> Path:
    """The ONNX file of a checkpoint, made where there is none.

    Args:
        checkpoint: The folder.
        quantization: None for float32.

    Raises:
        CheckpointError: If there is none, and the model is of a kind that can't be exported here.
        ImportError: If `onnx`, which is needed to make one, is not installed.
    """
    files = (checkpoint.folder / name for name in _IN_THE_FOLDER)
    given = next((file for file in files if file.is_file()), None)
    if given is not None and quantization is None:
        return given
    version = [str(_LAYOUT_VERSION), checkpoint.content_hash]
    if given is not None:
        status = given.stat()
        version += [str(status.st_size), str(status.st_mtime_ns)]
    digest = hashlib.sha256(" ".join(version).encode()).hexdigest()[:12]
    precision = quantization or "float32"
    folder = cache_root() / f"{checkpoint.folder.name}-onnx-{precision}-{digest}"

    def write(folder: Path) -> None:
        path = folder / _FILE
        if quantization is None:
            _export(checkpoint, path)
        elif given is not None:
            _quantize(given, path)
        else:
            source = folder / "float32.onnx"
            _export(checkpoint, source, for_int8=True)
            _quantize(source, path)
            for file in folder.glob(f"{source.name}*"):
                file.unlink()

    return _logged(folder, write) / _FILE


def _logged(folder: Path, write: Callable[[Path], None]) -> Path:
    if not (folder / _FILE).is_file():
        logger.info("exporting to %s, once", folder)
    return make_folder(folder, [_FILE], write)


def _export(checkpoint: Checkpoint, path: Path, *, for_int8: bool = False) -> None:
    _require_onnx()
    from langchain_hfembed.embeddings.engines.bert import Affine, Bert, is_bert
    from langchain_hfembed.embeddings.engines.heads import read_heads
    from langchain_hfembed.embeddings.engines.onnx_graph import save_graph
    from langchain_hfembed.embeddings.engines.torch_engine import load_model

    model = load_model(checkpoint)
    if not is_bert(model):
        raise CheckpointError(
            f"{checkpoint.folder} holds a model of type {model.config.model_type!r}, which can't "
            'be exported here. Export it with "optimum-cli export onnx --task feature-extraction" '
            f'to {checkpoint.folder / _IN_THE_FOLDER[0]}, or take engine="torch"'
        )
    sparse_head, colbert_head = read_heads(checkpoint.folder, model.config.hidden_size)
    save_graph(
        Bert(model), Affine.of(sparse_head), Affine.of(colbert_head), path, for_int8=for_int8
    )


def _quantize(source: Path, path: Path) -> None:
    """Weights in 8 bits, a scale a column; what they are multiplied with, at run time."""
    _require_onnx()
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        # 7 bits: with 8, sums overflow on processors without VNNI.
        reduce_range=True,
        use_external_data_format=True,
        # Of tensors whose type can't be inferred, behind Microsoft's operators.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401 -- whether it can be imported is the question
    except ImportError as error:
        raise ImportError(
            'to export a model, engine="onnx" needs the package onnx: '
            'pip install "langchain-hfembed[onnx]"'
        ) from error
