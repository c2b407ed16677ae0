"""A grid of lengths as a user asks for it: one load serves all of it, and everything downstream takes it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rotation import takes_turns

MODELS = ("--pair", "mu-tiny,dec-tiny", "--backend", "openvino,onnxruntime")
GRID = (*MODELS, "--input-tokens", "16,48", "--output-tokens", "3,8", "--repeat", "3")
CASES = 2 * 2 * 2 * 2
Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def call(place: Path) -> Call:
    def slmbench(*arguments: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "slmbench", *arguments],
            cwd=place,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )

    return slmbench


@pytest.fixture(scope="module")
def measured(call: Call) -> Done:
    return call("run", *GRID, "--out", "grid")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_grid_is_measured_by_one_process_a_model_and_load(measured: Done, place: Path) -> None:
    assert measured.returncode == 0, measured.stdout + measured.stderr
    found = lines(place / "grid")
    loads = [line for line in found if line["type"] == "load"]
    assert len({load["configuration"] for load in loads}) == 4
    # A survey and three loads of each of two models on two engines.
    assert len({load["pid"] for load in loads}) == 4 * 4
    samples = [line for line in found if line["type"] == "sample" and "retaken" not in line["flags"]]
    assert Counter(line["derived_from"] is None for line in samples) == {True: 3 * CASES // 2, False: 3 * CASES // 2}
    assert len([line for line in found if line["type"] == "memory"]) == CASES
    assert {load["agreement"] for load in loads} == {1.0}
    with (place / "grid" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == CASES
    assert all(float(row["ttft_s"]) > 0 and float(row["tpot_s"]) > 0 and row["peak_memory_bytes"] for row in rows)
    assert (place / "grid" / "report.html").stat().st_size > 10_000


@takes_turns(2, 4)
@pytest.mark.slow
def test_each_case_by_itself_where_asked(measured: Done, call: Call, place: Path) -> None:
    alone = call("run", *GRID, "--no-share", "--out", "alone")
    assert alone.returncode == 0, alone.stderr
    found = lines(place / "alone")
    assert not any(line.get("configuration") or line.get("derived_from") for line in found)
    # Old and new ways of loading are compared case by case, and so is a grid with itself.
    for other in ("alone", "grid"):
        compared = call("compare", "grid", other, "--format", "json")
        assert compared.returncode in (0, 1, 4), compared.stderr
        assert compared.stdout.count("mu-tiny") >= CASES // 2
    judged = call("check", "--baseline", "grid", "grid")
    assert judged.returncode in (0, 4), judged.stdout + judged.stderr


@takes_turns(3, 4)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills with a POSIX signal")
def test_a_killed_grid_goes_on_where_it_was(call: Call, place: Path) -> None:
    command = [sys.executable, "-m", "slmbench", "run", *GRID, "--out", "killed"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as host:
        source, deadline = place / "killed" / "samples.jsonl", time.monotonic() + 240
        while host.poll() is None and time.monotonic() < deadline:
            if source.exists() and source.read_text(encoding="utf-8").count('"type":"sample"') > 5:
                host.send_signal(signal.SIGKILL)
            time.sleep(0.05)
    kept = source.read_bytes().rpartition(b"\n")[0]
    done = call("run", "--resume", "killed")
    assert done.returncode == 0, done.stderr
    assert source.read_bytes().startswith(kept)
    samples = [line for line in lines(place / "killed") if line["type"] == "sample" and "retaken" not in line["flags"]]
    assert {key: count for key, count in Counter(line["case"] for line in samples).items() if count != 3} == {}
    assert len({line["case"] for line in samples}) == CASES
