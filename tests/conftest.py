"""What every test shares: a cache of its own, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Point slmbench at one cache for the whole test session, so that an artifact is exported once."""
    folder = Path(os.environ.get("SLMBENCH_TEST_CACHE") or tmp_path_factory.mktemp("cache"))
    os.environ["SLMBENCH_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder
