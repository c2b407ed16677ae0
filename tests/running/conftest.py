"""The stand-in backend, its artifact, and cases of it."""

from __future__ import annotations

import pytest
from standin_fixtures import artifact, installed, planned, plugin

from slmbench.running.settings import MeasureSettings

__all__ = ["artifact", "installed", "planned", "plugin"]


@pytest.fixture
def quick() -> MeasureSettings:
    """Return settings of a run that ends in seconds, whatever the noise."""
    return MeasureSettings(repeat=4, rounds=2, max_warmups=2, settle_s=0, sample_timeout_floor_s=5, open_timeout_s=30)
