"""A run is killed at a random moment, from export to report, and nothing is lost.

Like a database's crash test: after every kill each finished sample is on disk, nothing is half-written, the run can
be resumed to its end, and resuming it again does nothing. ``SLMBENCH_KILLS=100 pytest tests/crash`` is the long form.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from killing import Bench, strike
from known_limits import keep_limits
from rotation import in_turn

from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import RUN_NAME

pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
pytest.importorskip("torch", reason="exporting needs slmbench[cpu]")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

KILLS = int(os.environ.get("SLMBENCH_KILLS", "5"))
HOWS = ["host", "worker", "both", "terminate", "Ctrl-C twice"]
OPTIONS = ["--pair", "mu-tiny,dec-tiny", "--backend", "onnxruntime", "--repeat", "3"]
OPTIONS += ["--input-tokens", "16", "--output-tokens", "4"]


@dataclass(frozen=True)
class Whole:
    """What an undisturbed run left, and how many seconds one takes that finds these or has to export them."""

    cache: Path
    found_s: float
    exporting_s: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    bench = Bench(tmp_path_factory.mktemp("whole"))
    keep_limits(bench.root / "cache")
    begin = time.monotonic()
    for model in ("mu-tiny", "dec-tiny"):
        assert bench.call("export", model, "--format", "onnx", "--exporter", "slmbench") == 0, bench.output()
    exporting_s = time.monotonic() - begin
    assert bench.call("run", *OPTIONS, "--out", str(bench.folder)) == 0, bench.output()
    assert "exporting" not in bench.output(), "the run does not take the artifacts exported for it"
    begin = time.monotonic()
    assert bench.call("run", *OPTIONS, "--out", str(bench.root / "found")) == 0, bench.output()
    found_s = time.monotonic() - begin
    return Whole(bench.root / "cache", found_s, exporting_s)


@pytest.fixture
def bench(tmp_path: Path, whole: Whole) -> Bench:
    """A fresh cache, but for the limits: measuring them is longer than all the rest."""
    keep_limits(tmp_path / "cache")
    return Bench(tmp_path)


#: Half of the kills fall into a run that exports first, half into one that finds its artifacts: exporting takes most
#: of a whole run, and most kills would else hit nothing else.
MOMENTS = [
    pytest.param(how, number, (number + place) % 2 == 0, id=f"{number}-{how}")
    for number in range(max(1, KILLS // len(HOWS)))
    for place, how in enumerate(HOWS)
]


@pytest.mark.parametrize(("how", "number", "exports"), MOMENTS if KILLS > 5 else in_turn(MOMENTS, 2))
def test_nothing_is_lost(how: str, number: int, exports: bool, whole: Whole, bench: Bench) -> None:
    rng = random.Random(f"{how}/{number}")
    if not exports:
        shutil.copytree(whole.cache / "artifacts", bench.root / "cache" / "artifacts")
    process = bench.start("run", *OPTIONS, "--out", str(bench.folder))
    time.sleep(rng.uniform(0, whole.found_s + (whole.exporting_s if exports else 0)))
    strike(process, how)

    before = bench.samples()
    for line in before.splitlines():
        json.loads(line)
    assert "Traceback" not in bench.output(), bench.output()
    assert bench.call("cache", "verify") == 0, bench.output()

    # Before there is a run there is nothing to resume; the same command starts it.
    begun = (bench.folder / RUN_NAME).exists()
    again = ["run", "--resume", str(bench.folder)] if begun else ["run", *OPTIONS, "--out", str(bench.folder)]
    code = bench.call(*again)
    killed_worker = how == "worker" and code == 5
    assert code == 0 or killed_worker, bench.output()
    assert bench.samples().startswith(before)
    run = read_columns(bench.folder)
    assert {case.case.checkpoint for case in run.record.cases} == {"mu-tiny", "dec-tiny"}
    assert run.record.finished
    assert not run.warnings

    after = bench.samples()
    assert bench.call("run", "--resume", str(bench.folder)) == code, bench.output()
    assert bench.samples() == after
    assert "Traceback" not in bench.output(), bench.output()
