"""Whether this machine has the driver without which no engine computes on a GPU, asked without loading an engine."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

#: The library of NVIDIA's driver.
CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: The device file of AMD's driver, which torch for ROCm uses by the name of CUDA.
ROCM_DRIVER = Path("/dev/kfd")


def lacks_gpu_driver() -> bool:
    """Return whether there is neither NVIDIA's driver nor AMD's: importing a large engine would tell no more."""
    if ROCM_DRIVER.exists():
        return False
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return True
    return False
