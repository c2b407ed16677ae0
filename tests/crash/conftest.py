"""The stand-in backend and its artifact, as in tests/worker."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("standin_fixtures", Path(__file__).parents[1] / "worker" / "conftest.py")
assert _SPEC
assert _SPEC.loader
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

artifact = _FIXTURES.artifact
plugin = _FIXTURES.plugin
