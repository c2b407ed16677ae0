"""What slmbench keeps in the cache, and what the environment says: damaged or absurd, it misleads nobody."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corpus import broken_bytes, json_mutations
from synthetic import Speed, make_run

from slmbench.analysis.noise import Calibration, read_floor, save_calibration
from slmbench.backend import load_backend
from slmbench.machine.fingerprint import Fingerprint
from slmbench.machine.limits import _paths, cached_limits
from slmbench.records.limits import BandwidthPoint, Limits, MatrixRate

ABSURD = (0, -1, math.nan, math.inf, -math.inf, 10**400, True, None, "x", [], {})
HARDWARE = {"cpu_model": "x", "physical_cores": 2, "logical_cores": 2, "memory_gib": 4, "os": "Linux", "arch": "y"}
MACHINE = Fingerprint.model_validate({"hardware": HARDWARE})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))


def contents(good: Any) -> list[bytes]:
    """Return what may have become of a kept JSON file."""
    changed = [value for _, value, _ in json_mutations(good, free=frozenset(), optional=frozenset())]
    return [*broken_bytes(json.dumps(good).encode()).values(), *(json.dumps(value).encode() for value in changed)]


def test_a_damaged_calibration_is_none_or_a_calibration() -> None:
    """A shift of no number, or of any size, would let every regression pass."""
    levels = {"c": {"tpot": (0.0, 0.01, 0.02)}}
    good = Calibration(machine=MACHINE.digest(), measured="", runs=3, cases=levels)
    path = save_calibration(good)
    assert read_floor(MACHINE).calibration == good
    raw = json.loads(path.read_bytes())
    absurd = [{**raw, "cases": {"c": {"tpot": [0.0, 0.01, value]}}} for value in ABSURD]
    for content in [*contents(raw), *(json.dumps(value).encode() for value in absurd)]:
        path.write_bytes(content)
        shift = read_floor(MACHINE).shift(["c"], "tpot")
        assert shift.assumed or (0 <= shift.variance < math.inf and shift.runs >= 3), content


def test_damaged_limits_are_none_or_limits() -> None:
    backend = load_backend("openvino")
    good = Limits(
        engine="openvino", device="cpu", threads=1, versions={}, machine="m", measured="",
        bandwidth=(BandwidthPoint(footprint_bytes=8, bytes_per_s=1e9),),
        matrix={"fp32": MatrixRate(flops_per_s=1e9, effective="fp32")},
    )  # fmt: skip
    path = _paths(backend, "cpu", 1)[0]
    path.parent.mkdir(parents=True)
    path.write_text(good.model_dump_json())
    assert cached_limits(backend, "cpu", 1) == good
    raw = json.loads(path.read_bytes())
    absurd = [{**raw, "bandwidth": [{"footprint_bytes": 8, "bytes_per_s": value}]} for value in ABSURD]
    absurd += [{**raw, "bandwidth": [{"footprint_bytes": value, "bytes_per_s": 1e9}]} for value in ABSURD]
    absurd += [{**raw, "matrix": {"fp32": {"flops_per_s": value, "effective": "fp32"}}} for value in ABSURD]
    for content in [*contents(raw), *(json.dumps(value).encode() for value in absurd)]:
        path.write_bytes(content)
        found = cached_limits(backend, "cpu", 1)
        if found is not None:
            rates = [point.bytes_per_s for point in found.bandwidth] + [r.flops_per_s for r in found.matrix.values()]
            assert all(0 < rate < math.inf for rate in rates), content
            assert found.bandwidth_at(1e6) > 0 or not found.bandwidth


#: Terminals and code pages as there are; the names to be printed are of all alphabets.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no width": {"COLUMNS": "0"}, "below nothing": {"COLUMNS": "-5"},
    "ASCII": {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, "Windows": {"PYTHONIOENCODING": "cp1252"},
    "a file as cache": {"SLMBENCH_CACHE": sys.executable},
}  # fmt: skip


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_table_is_printed_in_any_environment(name: str, tmp_path: Path) -> None:
    folder = make_run([Speed(model="модель 模型 ≤"), Speed(model="b")]).write(tmp_path / "run")
    plain = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "PYTHONIOENCODING")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "slmbench", "table", str(folder)],
        env={**plain, **ENVIRONMENTS[name]}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert len(done.stdout) > 200
