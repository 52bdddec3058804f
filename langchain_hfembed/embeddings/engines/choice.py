"""Which engine runs a checkpoint, and on which devices."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import get_args

from langchain_hfembed.embeddings.checkpoint import Checkpoint, Dtype, EngineName, Quantization
from langchain_hfembed.embeddings.engines.base import Engine

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "threadpoolctl")


def check_settings(
    engine: EngineName,
    devices: Sequence[str | None],
    dtype: Dtype,
    quantization: Quantization | None,
) -> None:
    """Refuse what an engine has not.

    Raises:
        ValueError: If there is no such setting, or settings contradict each other.
    """
    # Copies with other settings come here unchecked.
    for name, value, choice in (("engine", engine, EngineName), ("dtype", dtype, Dtype)):
        if value not in get_args(choice):
            raise ValueError(f"{name}={value!r} is none of {', '.join(get_args(choice))}")
    if not devices:
        raise ValueError("device=[] names no device; None takes the first GPU, else the CPU")
    if engine == "torch":
        if quantization is not None:
            raise ValueError(f'quantization={quantization!r} needs engine="onnx"')
        return
    if any(device not in (None, "cpu") for device in devices) or len(devices) > 1:
        raise ValueError(
            f'engine="onnx" takes one device, "cpu", not {", ".join(map(str, devices))}; '
            'engine="torch" runs on GPUs'
        )
    if dtype not in ("auto", "float32"):
        raise ValueError(
            f'engine="onnx" computes in float32: leave out dtype={dtype!r}. quantization="int8" '
            "is faster"
        )


def check_packages() -> None:
    """Refuse to go on without the packages that every engine needs, before gigabytes are fetched.

    Raises:
        ImportError: If one is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'BGE-M3 needs {", ".join(missing)}: pip install "langchain-hfembed[bge-m3]"'
        )


def load_engines(
    checkpoint: Checkpoint,
    engine: EngineName,
    devices: Sequence[str | None],
    dtype: Dtype,
    quantization: Quantization | None,
    *,
    normalize: bool,
) -> tuple[Engine, ...]:
    """Load the model, once for each device.

    Args:
        checkpoint: The folder.
        engine: What runs it.
        devices: Torch devices; None for the first GPU, else Apple's, else the CPU.
        dtype: Precision of the weights.
        quantization: Of the weights and of what they are multiplied with.
        normalize: Scale dense and token vectors to length 1.

    Raises:
        ValueError: If settings contradict each other.
        CheckpointError: If a head does not fit the model, or the model can't be exported.
        ImportError: If a package of the engine is missing.
    """
    check_settings(engine, devices, dtype, quantization)
    if engine == "onnx":
        from langchain_hfembed.embeddings.engines.onnx_engine import OnnxEngine

        return (OnnxEngine(checkpoint, quantization=quantization, normalize=normalize),)
    from langchain_hfembed.embeddings.engines.torch_engine import TorchEngine

    return tuple(
        TorchEngine(checkpoint, device=device, dtype=dtype, normalize=normalize)
        for device in devices
    )
