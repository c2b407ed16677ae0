"""What a doctor says of engines: versions that do not fit, devices that are refused, instruction sets in use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slmbench.machine import doctor_engines
from slmbench.machine.cpu import emulator
from slmbench.machine.devices import DeviceRow, Devices
from slmbench.machine.doctor_engines import (
    NEWEST_TRIED,
    EngineSight,
    installed_engines,
    judge_engines,
    unmet_requirements,
)
from slmbench.machine.finding import Finding
from slmbench.machine.fingerprint import ENGINES
from slmbench.records.limits import BandwidthPoint, Limits, MatrixRate
from slmbench.system.extras import not_installed

FLAGS = ("avx2", "avx512_vnni", "avx512_bf16")


def limits(**changes: object) -> Limits:
    given = {
        "engine": "openvino", "device": "cpu", "threads": 2, "versions": {}, "machine": "m", "measured": "today",
        "bandwidth": (BandwidthPoint(footprint_bytes=1, bytes_per_s=1),),
        "matrix": {
            "fp32": MatrixRate(flops_per_s=1e12, effective="fp32"),
            "bf16": MatrixRate(flops_per_s=2e12, effective="bf16"),
        },
        "refused": {"fp16": "not on this CPU"},
    }  # fmt: skip
    return Limits(**{**given, **changes})  # type: ignore[arg-type]


def row(**changes: object) -> DeviceRow:
    given = {"backend": "openvino", "device": "gpu", "engine_name": "GPU", "available": False, "detail": "no driver",
             "remedy": "install intel-opencl-icd"}  # fmt: skip
    return DeviceRow(**{**given, **changes})  # type: ignore[arg-type]


def found(sight: EngineSight) -> dict[str, Finding]:
    return {finding.name: finding for finding in judge_engines(sight)}


def test_what_the_processor_has_and_what_engines_make_of_it() -> None:
    finding = found(EngineSight(flags=FLAGS, limits=(limits(),)))["instruction sets"]
    has = "this processor has VNNI or int8 dot products (avx512_vnni), bf16 (avx512_bf16), and none of: AMX, fp16. "
    assert finding.what.startswith(has)
    none = found(EngineSight(flags=("sse2",)))["instruction sets"].what
    assert none.startswith("this processor has none of: AMX, VNNI or int8 dot products, bf16, fp16. ")
    whole = found(EngineSight(flags=("amx_int8", *FLAGS, "avx512_fp16")))["instruction sets"].what
    assert "none of" not in whole
    assert (
        "openvino computes bf16 at 2.0x the rate of fp32; openvino computes in fp32, bf16 only, not in fp16"
        in finding.what
    )
    plain = limits(
        engine="onnxruntime", matrix={p: MatrixRate(flops_per_s=1e12, effective="fp32") for p in ("fp32", "fp16")}
    )
    assert (
        "onnxruntime computes fp16 as fp32 at 1.0x"
        in found(EngineSight(flags=FLAGS, limits=(plain,)))["instruction sets"].what
    )
    assert "was not measured here yet" in found(EngineSight(flags=FLAGS))["instruction sets"].what


def test_a_device_that_the_system_lists_and_no_engine_can_use_lacks_its_driver() -> None:
    devices = Devices(rows=(row(),), system=("gpu Intel Arc A770",))
    finding = found(EngineSight(devices=devices))["missing driver"]
    assert (finding.severity, finding.remedy) == ("noise", "install intel-opencl-icd")
    without = found(EngineSight(devices=Devices(rows=(row(), row(device="npu", engine_name="NPU")))))
    assert without["refused devices"].what == (
        "2 devices that engines looked for cannot be used here: gpu GPU (openvino), npu NPU (openvino)"
    )
    assert "missing driver" not in without
    assert "devices not looked for" not in without


def test_a_device_whose_engine_is_not_installed_is_not_said_to_be_absent() -> None:
    unknown = row(backend="torch", engine_name="cuda", detail=not_installed("torch"), remedy="pip install torch")
    mixed = found(EngineSight(devices=Devices(rows=(row(), unknown))))
    assert mixed["refused devices"].what.endswith(": gpu GPU (openvino)")
    assert mixed["devices not looked for"].what == "1 device of engines that are not installed: gpu cuda (torch)"
    assert "refused devices" not in found(EngineSight(devices=Devices(rows=(unknown,))))


def test_an_engine_that_breaks_is_wrong_and_one_that_is_not_installed_a_note() -> None:
    broken = Devices(rows=(), broken={"openvino": "its process ended with -11", "torch": "torch is not installed"})
    said = {
        finding.what.split()[0]: (finding.name, finding.severity)
        for finding in judge_engines(EngineSight(devices=broken))
    }
    assert said == {"openvino": ("engine broken", "wrong"), "torch": ("engine missing", "note")}


def test_older_engines_and_wheels_that_do_not_fit_are_named() -> None:
    sight = EngineSight(
        installed={"openvino": "2025.1.0", "torch": NEWEST_TRIED["torch"], "ctranslate2": "99.0"},
        unmet=(("openvino-genai", "openvino-tokenizers~=2026.4.1", "2026.3.0"),),
    )
    named = found(sight)
    assert f"openvino 2025.1.0 (newest tried: {NEWEST_TRIED['openvino']})" in named["older engines"].what
    assert "torch" not in named["older engines"].what
    assert (
        named["mismatched wheels"].what
        == "openvino-genai needs openvino-tokenizers~=2026.4.1, and 2026.3.0 is installed"
    )
    assert named["mismatched wheels"].severity == "wrong"


def test_requirements_of_what_is_installed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(NEWEST_TRIED) <= set(ENGINES)
    engines = installed_engines()
    assert engines, "no engine here"
    assert unmet_requirements([*engines, "slmbench"]) == []
    monkeypatch.setattr(doctor_engines, "_version", lambda _: "0.0.1")
    assert any(who == "slmbench" and needs.startswith("openvino") for who, needs, _ in unmet_requirements(["slmbench"]))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_qemu_is_seen_where_it_does_not_hide(tmp_path: Path) -> None:
    assert emulator() is None
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "thread-self" / "exe").symlink_to("/usr/bin/qemu-aarch64-static")
    assert emulator(tmp_path) == "qemu-aarch64-static"
