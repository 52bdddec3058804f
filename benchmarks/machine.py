"""What a benchmark ran on."""

from __future__ import annotations

import platform
from pathlib import Path

_INSTRUCTIONS = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")


def processor() -> str:
    """The processor's name, and which vector instructions it has."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = facts.get("flags", "").split()
    found = [flag for flag in _INSTRUCTIONS if flag in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(found)})"
