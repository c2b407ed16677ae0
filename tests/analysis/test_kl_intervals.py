"""Intervals of quality hold the true divergence as often as they say, also where a few windows decide the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripts_by_path import load_script

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "quality_coverage.py"


@pytest.fixture
def benchmark() -> Any:
    return load_script("benchmarks/quality_coverage.py")


@pytest.mark.parametrize("kind", ["even", "skewed", "very skewed"])
@pytest.mark.parametrize("windows", [12, 20])
def test_the_true_kl_is_inside(benchmark: Any, windows: int, kind: str) -> None:
    held, width = benchmark.coverage(windows, *benchmark.KINDS[kind], texts=1000, seed=7)
    # 93 to 97 %, and what 1,000 texts can be off by chance. Without the correction very skewed ones held 92.3 %.
    assert 0.922 <= held <= 0.978
    assert width < 1.2
