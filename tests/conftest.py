"""What every test shares: a cache of its own, and no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Point slmbench at one cache for the whole test session, so that an artifact is exported once.

    Processes of pytest-xdist share it: their temporary folders lie in one of the session's.
    """
    base = tmp_path_factory.getbasetemp()
    own = base.parent / "cache" if "PYTEST_XDIST_WORKER" in os.environ else base / "cache"
    folder = Path(os.environ.get("SLMBENCH_TEST_CACHE") or own)
    folder.mkdir(exist_ok=True)
    os.environ["SLMBENCH_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine be one whose separate runs hardly differ, for tests of what is made of verdicts."""
    from slmbench.analysis.noise import Floor, Shift

    class Quiet(Floor):
        def shift(self, keys: object, metric: str) -> Shift:
            return Shift(1e-8, runs=100)

    monkeypatch.setattr("slmbench.cli.compare.read_floor", lambda fingerprint: Quiet())
