"""Memory of a process that is given back to the system, on Linux; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ +(/.*)")


def give_back(folder: Path) -> None:
    """Give back what the allocator has kept of freed memory, and the pages of mapped files in ``folder``.

    A page is read from its file again when somebody looks at it. A mapping that was ever written to is left alone.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    if hasattr(system, "malloc_trim"):  # glibc's
        system.malloc_trim(ctypes.c_size_t(0))
    for start, end in _unwritten(folder.resolve()):
        system.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _unwritten(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield beginning and end of every mapping of a file in a folder of which no page is the process's own."""
    bounds: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if mapping := _MAPPING.fullmatch(line):
            first, last, access, path = mapping.groups()
            inside = "w" not in access and Path(path).is_relative_to(folder)
            bounds = (int(first, 16), int(last, 16)) if inside else None
        elif line.startswith("Anonymous:") and bounds is not None and line.split()[1] == "0":
            yield bounds
