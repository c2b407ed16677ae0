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


class _Absent:
    """Finds nothing, and lets nobody after it look."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return None

    def find_distributions(self, context: Any = None) -> list[Any]:
        return []


_from_name = importlib.metadata.Distribution.from_name


def _only_present(name: str) -> importlib.metadata.Distribution:
    if name.replace("-", "_").split("_")[0] in ABSENT or name.replace("-", "_") in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return _from_name(name)


sys.meta_path.insert(0, _Absent())
importlib.metadata.Distribution.from_name = staticmethod(_only_present)  # type: ignore[assignment]
