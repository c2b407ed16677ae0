"""How fast a small language model really is on your device.

``slmbench.run(...)`` measures, ``slmbench.read_run(folder)`` reads what a run left; both load their parts only
when called, so that ``import slmbench`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmbench._version import __version__

if TYPE_CHECKING:
    from slmbench.records.schema import read_run
    from slmbench.running.runner import run

__all__ = ["__version__", "read_run", "run"]

_HOMES = {"run": "slmbench.running.runner", "read_run": "slmbench.records.schema"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slmbench' has no attribute '{name}'")
