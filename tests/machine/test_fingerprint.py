from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.analysis.noise import Calibration, read_floor, save_calibration
from slmbench.machine.accelerators import Accelerator
from slmbench.machine.fingerprint import (
    THREAD_VARIABLES,
    Fingerprint,
    Hardware,
    Soft,
    Software,
    collect,
    differences,
    thread_settings,
)

words = st.text("ab, ", max_size=3)
versions = st.dictionaries(st.sampled_from(["openvino", "onnxruntime", "torch"]), st.sampled_from(["1", "2"]))
accelerator = st.builds(Accelerator, kind=st.sampled_from(["gpu", "npu"]), vendor=words, name=words)
hardware = st.builds(
    Hardware,
    cpu_model=words,
    cpu_flags=st.lists(words, max_size=2).map(tuple),
    physical_cores=st.integers(1, 2),
    logical_cores=st.integers(1, 2),
    cpu_quota_cores=st.none() | st.sampled_from([0.5, 1.0]),
    memory_gib=st.sampled_from([1, 2, 8]),
    governor=st.none() | words,
    turbo=st.none() | st.booleans(),
    smt=st.none() | st.booleans(),
    accelerators=st.lists(accelerator, max_size=2).map(tuple),
    os=words,
    arch=words,
    hypervisor=st.none() | words,
)
software = st.builds(Software, engines=versions, environment=st.dictionaries(st.sampled_from(THREAD_VARIABLES), words))
soft = st.builds(Soft, kernel=words, microcode=st.none() | words, host=words, python=words, libraries=versions)
fingerprints = st.builds(Fingerprint, hardware=hardware, software=software, soft=soft)
BASE = Fingerprint(hardware=Hardware(cpu_model="x", physical_cores=2, logical_cores=4, memory_gib=8, os="L", arch="a"))


@given(fingerprints)
def test_equal_machines_do_not_differ(machine: Fingerprint) -> None:
    assert differences(machine, machine.model_copy(deep=True)) == []


@given(fingerprints, fingerprints)
def test_differences_are_symmetric_and_found_exactly_where_machines_differ(a: Fingerprint, b: Fingerprint) -> None:
    there, back = differences(a, b), differences(b, a)
    assert {(d.field, d.a, d.b, d.kind, d.hard) for d in there} == {(d.field, d.b, d.a, d.kind, d.hard) for d in back}
    assert bool(there) == (a != b)
    assert any(d.kind == "hardware" for d in there) == (a.digest() != b.digest())
    assert all(d.hard for d in there if d.kind == "hardware")
    assert not any(d.hard for d in there if d.kind == "soft")


@given(fingerprints)
def test_a_fingerprint_survives_json(machine: Fingerprint) -> None:
    again = Fingerprint.model_validate_json(machine.model_dump_json())
    assert again == machine
    assert again.digest() == machine.digest()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"turbo": True}, "turbo: absent / on"),
        ({"memory_gib": 16}, "memory_gib: 8 / 16"),
        ({"cpu_flags": ("avx2", "amx_tile")}, "cpu_flags: none / avx2, amx_tile"),
        ({"cpu_quota_cores": 1.5}, "cpu_quota_cores: absent / 1.5"),
    ],
)
def test_a_hardware_difference_names_its_field_and_both_values(change: dict[str, object], line: str) -> None:
    other = BASE.model_copy(update={"hardware": BASE.hardware.model_copy(update=change)})
    assert [(str(d), d.hard) for d in differences(BASE, other)] == [(line, True)]


def test_another_engine_version_is_hard_but_an_engine_that_only_one_side_has_is_not() -> None:
    a = BASE.model_copy(update={"software": Software(engines={"onnxruntime": "1.31", "torch": "2.9"})})
    b = BASE.model_copy(update={"software": Software(engines={"onnxruntime": "1.32"})})
    assert {d.field: d.hard for d in differences(a, b)} == {"engines.onnxruntime": True, "engines.torch": False}


def test_thread_settings_are_those_set_and_give_no_paths_away() -> None:
    environment = {"OMP_NUM_THREADS": "2", "PATH": "/bin", "LD_PRELOAD": "/home/me/libtcmalloc.so:/x/libb.so"}
    assert thread_settings(environment) == {"OMP_NUM_THREADS": "2", "LD_PRELOAD": "libtcmalloc.so libb.so"}


def test_this_machine() -> None:
    machine = collect({"OMP_NUM_THREADS": "1"})
    assert machine.hardware.logical_cores >= machine.hardware.physical_cores >= 1
    assert machine.hardware.memory_gib > 0
    assert machine.hardware.arch == platform.machine()
    assert machine.software.environment == {"OMP_NUM_THREADS": "1"}
    assert machine.soft.python == platform.python_version()
    assert platform.node() not in machine.model_dump_json()
    assert machine.digest() == collect({}).digest()


def test_another_interpreter_prints_its_fingerprint_without_importing_an_engine() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "slmbench.machine.fingerprint"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "psutil" in imported
    assert not {"torch", "openvino", "onnxruntime", "transformers"} & imported
    assert Fingerprint.model_validate_json(done.stdout).hardware == collect().hardware


@pytest.mark.parametrize(("before", "after", "same"), [(7, 8, True), (8, 7, True), (8, 16, False), (1, 2, False)])
def test_memory_that_is_rounded_the_other_way_is_the_same_machine(
    before: int, after: int, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    a, b = (
        BASE.model_copy(update={"hardware": BASE.hardware.model_copy(update={"memory_gib": size})})
        for size in (before, after)
    )
    assert (differences(a, b) == []) == same
    # What was kept before the reboot is found after it.
    levels = {"x": {"ttft": (0.0, 0.01, 0.02)}}
    save_calibration(Calibration(machine=a.digest(), measured="then", runs=3, cases=levels))
    assert (read_floor(b).calibration is not None) == same
    assert read_floor(a).calibration is not None


def test_an_earlier_versions_files_are_found() -> None:
    # As version 0.2.0 named them, which did not look for emulators.
    named = BASE.hardware.model_dump_json(exclude={"emulator"})
    assert BASE.digest() == hashlib.sha256(named.encode()).hexdigest()[:16]
