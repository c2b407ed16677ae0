"""On PYTHONPATH this makes a machine that has an engine and no exporters: neither their modules nor their metadata.

``SLMBENCH_ABSENT`` names others that are not there.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from importlib.machinery import ModuleSpec
from typing import Any

ABSENT = os.environ.get(
    "SLMBENCH_ABSENT", "torch transformers optimum nncf onnx onnxscript onnx_ir safetensors"
).split()


class _Without:
    """A finder that does not find the absent ones."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] in ABSENT:
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, path, target)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


_from_name = importlib.metadata.Distribution.from_name


def _only_present(name: str) -> importlib.metadata.Distribution:
    if name.replace("-", "_").split("_")[0] in ABSENT or name.replace("-", "_") in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return _from_name(name)


sys.meta_path[:] = [_Without(finder) for finder in sys.meta_path]
importlib.metadata.Distribution.from_name = staticmethod(_only_present)  # type: ignore[assignment]
