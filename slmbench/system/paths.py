"""Where slmbench keeps things."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the cache folder: ``$SLMBENCH_CACHE``, or the platform's user cache. It may not exist yet."""
    return Path(os.environ.get("SLMBENCH_CACHE") or platformdirs.user_cache_dir("slmbench"))
