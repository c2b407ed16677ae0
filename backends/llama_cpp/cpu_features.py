"""Which instructions llama.cpp was compiled for, and which this CPU and its kernel let a process use.

ggml chooses its CPU code when it is compiled (``-march=native`` of the machine that compiled it). A library that was
compiled elsewhere then dies of SIGILL, for quantised weights first, whose kernels use the newest instructions. So the
two are compared before a model is opened.

AMX is the exception: ggml uses it only for weights in a buffer of their own ("AMX"), and asks the kernel for
permission when it makes one. Where AMX is compiled in but not usable, that buffer is switched off instead
(``use_extra_bufts``), which leaves ggml's other kernels. Read in ggml's sources (``ggml-cpu/amx/amx.cpp``) and tested
with CPUs that are described by hand: no CPU with AMX was at hand, so AMX itself was never run.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

#: Names in llama.cpp's system information, and what Linux calls the same in /proc/cpuinfo.
_FLAGS = {
    "SSE3": ("pni",),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX2": ("avx2",),
    "AVX_VNNI": ("avx_vnni",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
}
AMX = "AMX_INT8"
_AMX_FLAGS = ("amx_tile", "amx_int8")
#: Linux on x86-64: the system call, its operations, and the bit of AMX's tile data.
_ARCH_PRCTL, _GET_PERMISSION, _ASK_PERMISSION, _TILE_DATA = 158, 0x1022, 0x1023, 18


def compiled_for(system_info: str) -> set[str]:
    """Return the features that llama.cpp's system information names ("AVX512_VNNI = 1")."""
    parts = (part.rpartition(":")[2].partition("=") for part in system_info.split("|"))
    return {name.strip() for name, _, value in parts if value.strip() == "1"}


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the first processor; empty where the system does not list them."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(one.partition(":")[2].split()) for one in lines if one.startswith("flags")), frozenset())


def missing_features(compiled: set[str], flags: frozenset[str]) -> list[str]:
    """Return what the library was compiled for and this CPU does not have, AMX aside; empty where that is unknown."""
    if not flags:
        return []
    return sorted(name for name in compiled & set(_FLAGS) if not flags.issuperset(_FLAGS[name]))


def amx_obstacle(compiled: set[str], flags: frozenset[str]) -> str | None:
    """Return why AMX, which is compiled in, must not be used here; None where it may be or is not compiled in."""
    if AMX not in compiled:
        return None
    if flags and not flags.issuperset(_AMX_FLAGS):
        return "this CPU has no AMX"
    return None if _kernel_permits_amx() else "the kernel does not permit AMX"


def _kernel_permits_amx() -> bool:
    """Ask as ggml does, then read back what was granted: a sandbox may answer the first without doing anything."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return sys.platform == "win32"
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    granted = ctypes.c_ulong(0)
    if syscall(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_ASK_PERMISSION), ctypes.c_long(_TILE_DATA)):
        return False
    if syscall(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_GET_PERMISSION), ctypes.byref(granted)):
        return False
    return bool(granted.value >> _TILE_DATA & 1)
