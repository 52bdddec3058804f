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


def rss() -> int:
    """Bytes of memory that this process has in use, from Linux's /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmRSS")
