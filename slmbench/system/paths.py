"""Where slmbench keeps things."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def plain_text(text: str) -> str:
    """Return a name from a disk as text that can be stored anywhere: a byte that is not UTF-8 is spelled out."""
    return text.encode(errors="backslashreplace").decode()


def cache_dir() -> Path:
    """Return the cache folder: ``$SLMBENCH_CACHE``, or the platform's user cache. It may not exist yet."""
    return Path(os.environ.get("SLMBENCH_CACHE") or platformdirs.user_cache_dir("slmbench"))
