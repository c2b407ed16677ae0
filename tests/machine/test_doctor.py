from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from slmbench.machine import doctor
from slmbench.machine.doctor import Sight, judge, look
from slmbench.machine.finding import Finding
from slmbench.machine.fingerprint import Fingerprint, Hardware, Software

Tree = Callable[[dict[str, str]], Path]
HARDWARE = Hardware(cpu_model="x", physical_cores=4, logical_cores=4, memory_gib=32, os="Linux", arch="x86_64")
QUIET = Sight(Fingerprint(hardware=HARDWARE))


def with_hardware(**change: object) -> Sight:
    return Sight(Fingerprint(hardware=HARDWARE.model_copy(update=change)))


def only(sight: Sight) -> Finding:
    found = judge(sight)
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_found_on_a_quiet_machine() -> None:
    assert judge(QUIET) == []
    assert judge(with_hardware(governor="performance", turbo=False, smt=False, cpu_quota_cores=4.0)) == []


@pytest.mark.parametrize(
    ("sight", "name", "severity", "words"),
    [
        (replace(QUIET, foreign_load=0.8, heaviest=(("cc1", 7, 0.75),)), "other processes", "noise", "0.80 cores.*cc1"),
        (replace(QUIET, stolen=0.2), "steal", "noise", "0.20 cores"),
        (replace(QUIET, on_battery=True), "battery", "noise", "battery"),
        (replace(QUIET, temperature_c=97.0), "heat", "noise", "97 °C"),
        (replace(QUIET, throttled=9, throttled_now=2), "heat", "noise", "2 throttling"),
        (replace(QUIET, throttled=9), "heat", "note", "9 throttling"),
        (replace(QUIET, available_bytes=2**30), "memory", "noise", "1.0 GiB"),
        (replace(QUIET, swap_used_bytes=2**20), "swap", "note", "1 MiB"),
        (replace(QUIET, swap_used_bytes=2**20, swapped_bytes=2**21), "swap", "wrong", "2.0 MiB"),
        (replace(QUIET, clock_ns=2500, clock_source="hpet"), "clock", "noise", "2500 ns.*hpet"),
        (
            replace(QUIET, onnxruntime_owners=("onnxruntime", "onnxruntime-gpu")),
            "onnxruntime twice",
            "wrong",
            "onnxruntime-gpu all own",
        ),
        (with_hardware(governor="powersave"), "governor", "noise", "powersave"),
        (with_hardware(os="Windows", governor="Balanced"), "power plan", "noise", "Balanced"),
        (replace(QUIET, machine_cores=64), "cores", "note", "4 of 64"),
        (replace(QUIET, emulator="qemu-aarch64"), "emulated processor", "wrong", "qemu-aarch64"),
        (with_hardware(turbo=True), "turbo", "note", "turbo"),
        (with_hardware(smt=True, logical_cores=8), "smt", "note", "8 logical cores on 4"),
        (with_hardware(hypervisor="kvm"), "hypervisor", "note", "kvm"),
        (with_hardware(cpu_quota_cores=1.5), "cpu quota", "wrong", "1.5 cores' time on 4"),
    ],
)
def test_each_disturbance_is_named_with_its_figure(sight: Sight, name: str, severity: str, words: str) -> None:
    finding = only(sight)
    assert (finding.name, finding.severity) == (name, severity)
    assert re.search(words, finding.what), finding.what
    assert finding.why
    assert finding.remedy


def test_a_slow_clock_that_is_the_fastest_source_already_has_other_advice() -> None:
    assert "clocksource=tsc" in only(replace(QUIET, clock_ns=2500, clock_source="hpet")).remedy
    assert "clocksource" not in only(replace(QUIET, clock_ns=2500, clock_source="tsc")).remedy


def test_a_reading_of_the_clock_does_not_count_what_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches but one are interrupted for 10 ms in their middle."""
    now, readings = [0], [0]

    def counter() -> int:
        readings[0] += 1
        now[0] += 50 + (10_000_000 if readings[0] % 102 == 60 and readings[0] // 102 != 7 else 0)
        return now[0]

    monkeypatch.setattr("slmbench.machine.doctor.time.perf_counter_ns", counter)
    assert doctor._clock_ns() == pytest.approx(50, rel=0.02)


def test_the_quota_names_the_threads_to_use() -> None:
    assert "--threads 1" in only(with_hardware(cpu_quota_cores=1.5)).remedy


def test_set_variables_are_listed_one_by_one() -> None:
    software = Software(environment={"OMP_NUM_THREADS": "2", "KMP_BLOCKTIME": "0"})
    found = judge(Sight(Fingerprint(hardware=HARDWARE, software=software)))
    assert [finding.what for finding in found] == ["OMP_NUM_THREADS=2 is set", "KMP_BLOCKTIME=0 is set"]


def test_the_worst_comes_first() -> None:
    sight = replace(with_hardware(turbo=True, cpu_quota_cores=1.0), foreign_load=1.0)
    assert [finding.severity for finding in judge(sight)] == ["wrong", "noise", "note"]


def test_a_busy_process_is_seen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HEAVIEST", 100)  # the machine that runs the tests may be busy with others
    # The doctor's own children are its own: the burner is started through a process that leaves it behind.
    code = (
        "import subprocess, sys; burner = [sys.executable, '-c', 'while True: pass'];"
        "print(subprocess.Popen(burner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    pid = int(done.stdout)
    try:
        sight = look(0.8)
    finally:
        psutil.Process(pid).kill()
    assert sight.foreign_load > 0.3
    assert pid in [found for _, found, cores in sight.heaviest if cores > 0.1]
    assert [cores for _, _, cores in sight.heaviest] == sorted((c for _, _, c in sight.heaviest), reverse=True)
    assert "other processes" in [finding.name for finding in judge(sight)]


def test_throttling_is_counted_over_all_cores(tree: Tree) -> None:
    root = tree(
        {
            "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
            "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4",
            "devices/system/clocksource/clocksource0/current_clocksource": "hpet",
        }
    )
    sight = look(0.01, root)
    assert (sight.throttled, sight.throttled_now, sight.clock_source) == (7, 0, "hpet")
    assert 0 < sight.clock_ns < 1e6


def test_two_distributions_that_own_onnxruntime_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime_gpu", "onnxruntime_directml"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (folder / "RECORD").write_text("onnxruntime/__init__.py,,\nonnxruntime/other.py,,\n")
    # Files that a RECORD names and that are not there are left out by some versions of the library.
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"onnxruntime-gpu", "onnxruntime-directml"} <= set(doctor.onnxruntime_owners())
