"""The stand-in backend and its cases, as in tests/worker."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("standin_fixtures", Path(__file__).parents[1] / "worker" / "conftest.py")
assert _SPEC
assert _SPEC.loader
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

artifact = _FIXTURES.artifact
installed = _FIXTURES.installed
planned = _FIXTURES.planned
plugin = _FIXTURES.plugin
