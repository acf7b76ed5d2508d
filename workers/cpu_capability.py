"""How far torch's kernels use this CPU: read from the machine without torch, and held to less before torch is imported.

Torch chooses its kernels by the CPU, and kernels differ in the last digits. Where machines of one sweep differ, the better ones
are held to what the sweep was begun with.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

RANKS = ("DEFAULT", "AVX2", "AVX512")
"""What torch calls the capabilities of x86, the lowest first."""

VARIABLE = "ATEN_CPU_CAPABILITY"
"""Environment variable by which torch's own kernels are held to a capability."""

_LIBRARIES = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What holds its matrix products to AVX2; there is nothing below."""
_NEEDED = {"AVX2": {"avx2", "fma"}, "AVX512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}


def hold_to(capability: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch, when it is imported, use no more of this CPU; where the user has said how much, that stays."""
    native = _native()
    if VARIABLE in environment or not native or capability not in RANKS:
        return
    if RANKS.index(capability) < RANKS.index(native):
        environment[VARIABLE] = capability.lower()
        for name, value in _LIBRARIES.items() if capability == "AVX2" else ():
            environment.setdefault(name, value)


def _native() -> str:
    """This machine's capability; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)
    if flags is None:
        return ""
    return next((name for name in reversed(RANKS) if _NEEDED.get(name, set()) <= flags), RANKS[0])
