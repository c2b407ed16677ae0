"""Scripts of the repository that are in no package, loaded by their place."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_script(place: str) -> ModuleType:
    """Load ``docs/....py``, ``benchmarks/....py`` or ``examples/....py`` under the file's name."""
    path = ROOT / place
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
