"""What everybody types: run, table, compare, baseline, check. `.ci/environments` runs it in other environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SLMBENCH_ENVIRONMENT" not in os.environ, reason="runs in the environments of .ci/environments"),
]
MODELS, ENGINES = ("mu-tiny", "dec-tiny"), ("openvino", "onnxruntime", "torch")
#: What each engine has on every CPU.
KNOWN = {(model, engine, "fp32") for model in MODELS for engine in ENGINES}
KNOWN |= {(model, engine, "int8") for model in MODELS for engine in ENGINES if engine != "torch"}
ASKED = ["--pair", ",".join(MODELS), *(word for engine in ENGINES for word in ("--backend", engine))]
ASKED += ["--precision", "fp32", "--precision", "int8", "--input-tokens", "16", "--output-tokens", "8", "--repeat", "3"]


def slmbench(folder: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command in that folder; the repository is on no path."""
    command = [sys.executable, "-P", "-m", "slmbench", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_from_a_run_to_its_verdict(tmp_path: Path) -> None:
    slmbench(tmp_path, "run", *ASKED, "--out", "run")
    rows: list[dict[str, Any]] = json.loads(slmbench(tmp_path, "table", "run", "--json"))
    # A figure is there only if tokens, device and precision were proven.
    proven = {(row["model"], row["backend"], row["weight_precision"]) for row in rows if row["ttft_s"]}
    assert proven == KNOWN, [row["failure"] or row["refusal"] for row in rows]
    assert {row["agreement"] for row in rows if row["weight_precision"] == "fp32"} == {1.0}
    assert "sooner" in slmbench(tmp_path, "table", "run") or "later" in slmbench(tmp_path, "table", "run")
    for name in ("table.md", "table.csv", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 500
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    slmbench(tmp_path, "run", "--resume", "run")
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    assert "mu-tiny" in slmbench(tmp_path, "compare", "run", "run")
    slmbench(tmp_path, "baseline", "save", "run", "base.json")
    # A run does not differ from itself, also where no noise is calibrated.
    assert "check passed" in slmbench(tmp_path, "check", "--baseline", "base.json", "run")


def test_static_graphs_give_the_reference_tokens(tmp_path: Path) -> None:
    """T5's attention is the one that transformers has rewritten most often; the graphs are made for NPUs."""
    words = ["run", "--device", "npu", "--simulate", "--backend", "openvino", "--model", "t5-tiny", "--out", "run"]
    told = slmbench(tmp_path, *words, "--input-tokens", "64", "--output-tokens", "8")
    assert re.search(r"all \d+ tokens agree, on npuw-cpu", " ".join(told.split()))
    (row,) = json.loads(slmbench(tmp_path, "table", "run", "--json"))
    assert (row["model"], row["agreement"], row["ttft_s"], row["failure"]) == ("t5-tiny", 1.0, None, None)


def test_what_needs_no_measuring(tmp_path: Path) -> None:
    assert "mu-small" in slmbench(tmp_path, "run", "--dry-run")
    assert json.loads(slmbench(tmp_path, "doctor", "--json", codes=(0, 5)))
    for words in (["devices"], ["models"], ["suites"], ["explain", "mu-tiny"]):
        assert slmbench(tmp_path, *words)
