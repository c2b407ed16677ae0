"""Commands that write, but measure no run, are killed at random moments: the old stays, or the new is whole."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import Bench, strike
from rotation import takes_turns
from synthetic import Speed, make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]
KILLS = max(2, int(os.environ.get("SLMBENCH_KILLS", "5")) // 5)
HOWS = ["both", "terminate"]
REPORTS = ("table.csv", "table.md", "report.html")


def killed(bench: Bench, *arguments: str, again: Callable[[], object]) -> None:
    """Kill a command at moments of all its length; ``again`` looks at what is there after each."""
    began = time.monotonic()
    assert bench.call(*arguments) == 0, bench.output()
    takes_s, rng, hits = time.monotonic() - began, random.Random(arguments[0]), 0
    while hits < KILLS:
        process = bench.start(*arguments)
        # The first tenths are imports.
        time.sleep(takes_s * rng.uniform(0.2, 1.0))
        if process.poll() is None:
            hits += 1
        else:
            # It was quicker than before.
            takes_s *= 0.8
        strike(process, HOWS[hits % len(HOWS)])
        again()
    assert "Traceback" not in bench.output(), bench.output()


@takes_turns(0, 3)
def test_an_export_is_whole_or_absent(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="exporting needs slmbench[cpu]")
    bench = Bench(tmp_path)
    store = tmp_path / "cache" / "artifacts"
    export = ("export", "dec-tiny", "--format", "onnx", "--exporter", "slmbench", "--force")
    hashes: list[dict[str, str]] = []

    def look() -> None:
        assert bench.call("cache", "verify") == 0, bench.output()
        whole = (json.loads(path.read_bytes())["files"] for path in store.glob("[!.]*/manifest.json"))
        hashes.extend({entry["path"]: entry["sha256"] for entry in files} for files in whole)

    killed(bench, *export, again=look)
    assert bench.call(*export) == 0, bench.output()
    assert len(list(store.iterdir())) == 1
    look()
    assert hashes[1:] == hashes[:-1]
    assert len(hashes) > 1


@takes_turns(1, 3)
def test_a_table_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    run = make_run([Speed(model=f"model-{number}", ttft_ms=number + 1.0) for number in range(60)]).write(
        tmp_path / "run"
    )
    bench = Bench(tmp_path)
    table = ("table", str(run), "--write")
    assert bench.call(*table) == 0, bench.output()
    new = {name: (run / name).read_bytes() for name in REPORTS}
    for name in REPORTS:
        (run / name).write_bytes(b"old")

    def look() -> None:
        for name in REPORTS:
            assert (run / name).read_bytes() in (b"old", new[name])

    killed(bench, *table, again=look)
    assert bench.call(*table) == 0, bench.output()
    assert {name: (run / name).read_bytes() for name in REPORTS} == new


@takes_turns(2, 3)
def test_limits_are_the_old_ones_or_the_new_ones(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    bench = Bench(tmp_path)
    kept = tmp_path / "cache" / "limits"

    def look() -> None:
        for path in kept.rglob("*.json"):
            json.loads(path.read_bytes())
        assert bench.call("limits", "--backend", "onnxruntime") == 0, bench.output()

    killed(bench, "limits", "--backend", "onnxruntime", "--again", again=look)
    assert [path.suffix for path in kept.rglob("*.*")] == [".json"]
