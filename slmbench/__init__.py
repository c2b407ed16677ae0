"""How fast a small language model really is on your device.

``slmbench.run(...)`` measures, ``slmbench.read_run(folder)`` reads what a run left, and ``slmbench.quality(...)``
compares an artifact with its checkpoint. They load their parts only when called: ``import slmbench`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# First: the others need the Python that it asks for.
import slmbench._interpreter  # noqa: F401 (it ends the import)
from slmbench._version import __version__

if TYPE_CHECKING:
    from slmbench.running.api import RunResult, quality, read_run, run

__all__ = ["RunResult", "__version__", "quality", "read_run", "run"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("RunResult", "quality", "read_run", "run"):
        return getattr(import_module("slmbench.running.api"), name)
    raise AttributeError(f"module 'slmbench' has no attribute '{name}'")
