"""The script that draws charts is bundled once and kept."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from slmbench.report.chart_bundle import chart_bundle


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SLMBENCH_CACHE", str(folder))
    return folder


def test_what_is_kept_is_what_was_bundled(cache: Path) -> None:
    first = chart_bundle()
    (kept,) = (cache / "report").iterdir()
    assert version("vl-convert-python") in kept.name
    assert "vegaEmbed" in first
    assert "</script" not in first
    assert "<!--" not in first
    kept.write_text("kept", encoding="utf-8")
    assert chart_bundle() == "kept"


def test_a_file_that_cannot_be_read_as_text_is_made_again(cache: Path) -> None:
    first = chart_bundle()
    (kept,) = (cache / "report").iterdir()
    kept.write_bytes(b"\xff\xfe")
    assert chart_bundle() == first
    assert kept.read_text(encoding="utf-8") == first


def test_without_a_cache_it_is_bundled_each_time(cache: Path) -> None:
    cache.write_text("a file where the folder would be", encoding="utf-8")
    assert "vegaEmbed" in chart_bundle()
