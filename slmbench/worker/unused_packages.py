"""Packages that transformers imports wherever they are installed, though no text network needs them."""

from __future__ import annotations

import sys
from typing import cast

#: scikit-learn (which brings pandas) is for assisted generation, torchvision for pictures. In a worker they would take
#: 65 MB, and a second or more to import.
UNUSED = ("sklearn", "torchvision")
#: SciPy is for training detectors of objects; it would take 22 MB. Only our own engine is known to do without: a
#: plugin's may compute with it.
UNUSED_BY_TORCH = ("scipy",)


def hide_unused_packages(backend: str) -> None:
    """Have transformers find none of them, in this process: what is None in ``sys.modules`` counts as not installed.

    For a process that runs one text model with this backend and then ends. What is imported already stays.
    """
    modules = cast("dict[str, object]", sys.modules)
    for name in (*UNUSED, *(UNUSED_BY_TORCH if backend == "torch" else ())):
        modules.setdefault(name, None)
