"""The cache as a user sees it: what a run leaves there is listed, and each part can be removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from known_limits import keep_limits

pytest.importorskip("openvino", reason="needs slmbench[cpu]")


def slmbench(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "slmbench", *words],
        cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "SLMBENCH_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_a_run_leaves_in_the_cache_is_listed_and_removed(tmp_path: Path) -> None:
    keep_limits(tmp_path / "cache")
    sizes = ["--input-tokens", "16", "--output-tokens", "4", "--repeat", "6"]
    slmbench(tmp_path, "run", "--model", "mu-tiny,dec-tiny", "--backend", "openvino", *sizes, "--out", "run")
    engines = tmp_path / "cache" / "engines"
    compiled = size_of(engines)
    rows: list[dict[str, Any]] = json.loads(slmbench(tmp_path, "cache", "list", "--json"))
    assert sum(row["compiled_bytes"] for row in rows) == compiled > 0
    assert f"compiled by engines: of 2 artifacts, {compiled / 1e6:.1f} MB" in slmbench(tmp_path, "cache", "list")

    one, other = rows
    before = size_of(tmp_path / "cache")
    said = slmbench(tmp_path, "cache", "clean", one["id"][:8])
    freed = before - size_of(tmp_path / "cache")
    assert said == f"removed 1 artifact, {freed / 1e6:.1f} MB\n"
    assert freed == one["size_bytes"] + one["compiled_bytes"]
    assert [path.name for path in engines.iterdir()] == [other["id"]]

    text = f"what engines compiled of 1 artifact, {other['compiled_bytes'] / 1e6:.1f} MB\n"
    assert slmbench(tmp_path, "cache", "clean", "--compiled", "--dry-run") == f"would remove {text}"
    assert slmbench(tmp_path, "cache", "clean", "--compiled") == f"removed {text}"
    assert not list(engines.iterdir())
