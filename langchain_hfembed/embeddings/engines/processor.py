"""What the processor of this machine can do."""

from __future__ import annotations


def computes_bfloat16() -> bool:
    """Whether it multiplies bfloat16 in hardware: AVX512-BF16 or AMX. Elsewhere it takes longer."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)
