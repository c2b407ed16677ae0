"""How many threads OpenMP really gives torch and llama.cpp, read back from the library that the engine is linked to.

Both engines repeat the number they were given. OpenMP may give fewer threads (``OMP_THREAD_LIMIT``, ``OMP_DYNAMIC``)
or bind them all to one core (``OMP_PROC_BIND=master``, ``OMP_PLACES``, ``GOMP_CPU_AFFINITY``).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_SETTINGS = (
    "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
)  # fmt: skip
#: OpenMP's numbers of what threads are bound to: nothing, or the place of the thread that starts them.
_UNBOUND, _TO_PRIMARY = 0, 2


class OpenMp:
    """The OpenMP of one engine. Make it after the engine is imported, in the thread that runs it."""

    def __init__(self, engine_library: str) -> None:
        """Find what the engine's library ("libtorch_cpu") is linked to: several OpenMPs may be in one process."""
        self._library = _linked(engine_library)
        if self._library is not None:
            # Teams that shrink while the machine is busy would measure the machine's other work.
            self._library.omp_set_dynamic(0)

    def team_size(self, asked: int) -> int:
        """Return how many of ``asked`` threads can compute at the same time."""
        if self._library is None:
            # Not Linux, or an engine without OpenMP: only what the environment says is known.
            limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
            return min(asked, int(limit)) if limit.isdecimal() and int(limit) else asked
        size = min(asked, int(self._library.omp_get_thread_limit()))
        bound = int(self._library.omp_get_proc_bind())
        if bound == _UNBOUND:
            return size
        if bound == _TO_PRIMARY:
            places = [int(self._library.omp_get_place_num())]
        else:
            places = list(range(int(self._library.omp_get_num_places())))
        cores = sum(int(self._library.omp_get_place_num_procs(place)) for place in places if place >= 0)
        return min(size, cores) if cores else size

    def in_words(self, asked: int) -> str:
        """Return the team's size; where it is smaller than asked, with the settings that can be the reason."""
        size = self.team_size(asked)
        found = [f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name)]
        return f"{size} ({', '.join(found)})" if size < asked and found else str(size)


def _linked(engine_library: str) -> ctypes.CDLL | None:
    """Return the engine's library, through which OpenMP's functions are found; None where they are not."""
    try:
        mapped = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return None
    paths = (line[line.index("/") :] for line in mapped if f"/{engine_library}." in line)
    path = next(paths, None)
    library = None if path is None else ctypes.CDLL(path)
    return library if hasattr(library, "omp_get_place_num_procs") else None
