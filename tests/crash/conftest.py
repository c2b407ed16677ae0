"""The stand-in backend and its artifact, as in tests/worker."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("standins", Path(__file__).parents[1] / "worker" / "conftest.py")
assert _SPEC
assert _SPEC.loader
_STANDINS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_STANDINS)

artifact = _STANDINS.artifact
plugin = _STANDINS.plugin
