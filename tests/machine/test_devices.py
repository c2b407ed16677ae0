from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from slmbench.machine.accelerators import Accelerator, accelerators, from_registry
from slmbench.machine.devices import ask_backends, list_devices, undriven

PLUGIN = """
import os, time
from slmbench.backend import DeviceStatus, SessionOptions

class Base:
    name, engine, distributions, options_type, attention_paths = "fine", "strange", (), SessionOptions, ()
    def devices(self):
        print("chatter of the engine")
        return [
            DeviceStatus("gpu", "G0", True, "a GPU", memory_bytes=2**30, driver="1.2"),
            DeviceStatus("npu", "N0", False, "looked for an NPU: none", "buy one"),
        ]
    def artifact_specs(self, checkpoint, precision, device): return ()
    def refusal(self, checkpoint, spec, options, device): return None
    def open(self, artifact, device, options): raise RuntimeError("never")

class Raises(Base):
    def devices(self): raise RuntimeError("driver too old: 1.0\\nneeds 1.1")

class Dies(Base):
    def devices(self): os.abort()

class Hangs(Base):
    def devices(self): time.sleep(60)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers.py").write_text(PLUGIN)
    metadata = tmp_path / "strangers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    names = {"fine": "Base", "raises": "Raises", "dies": "Dies", "hangs": "Hangs", "gone": "NoSuchClass"}
    lines = [f"{name} = strangers:{cls}" for name, cls in names.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[slmbench.backends]", *lines]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_rows_come_with_what_is_there_and_what_is_missing(plugin: None) -> None:
    found = list_devices(["fine"])
    gpu, npu = (row for row in found.rows if row.backend == "fine")
    assert (gpu.device, gpu.engine_name, gpu.available, gpu.memory_bytes, gpu.driver) == (
        "gpu",
        "G0",
        True,
        2**30,
        "1.2",
    )
    assert (npu.available, npu.detail, npu.remedy) == (False, "looked for an NPU: none", "buy one")
    assert found.broken == {}


def test_a_backend_that_fails_while_it_looks_costs_its_own_rows_alone(plugin: None) -> None:
    found = list_devices(["raises", "fine", "dies", "gone"])
    assert {row.backend for row in found.rows if row.backend} == {"fine"}
    assert found.broken["raises"] == "RuntimeError: driver too old: 1.0 needs 1.1"
    assert "its process ended with" in found.broken["dies"]
    assert "fails to load: AttributeError" in found.broken["gone"]


def test_a_backend_that_hangs_is_given_up(plugin: None) -> None:
    answers = ask_backends(["fine", "hangs", "raises"], timeout_s=2)
    assert answers["hangs"] == "no answer in 2 s"
    assert [row.engine_name for row in answers["fine"]] == ["G0", "N0"]
    assert answers["raises"] == "RuntimeError: driver too old: 1.0 needs 1.1"


def test_torch_is_not_loaded_to_learn_that_there_is_no_driver() -> None:
    pytest.importorskip("torch", reason="needs slmbench[export]")
    code = "import sys; from slmbench.backend import load_backend; found = load_backend('torch').devices()\n"
    code += "print('torch' in sys.modules, next(one.detail for one in found if one.device == 'gpu'))"
    hidden = f"from slmbench.backends.common import gpu_driver\ngpu_driver.CUDA_DRIVER = 'libnone.so'\n{code}"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True)
    if not Path("/dev/kfd").exists():
        assert done.stdout.startswith("False looked for CUDA: this machine has no NVIDIA driver"), done.stdout


def test_npus_that_nobody_drives_are_named_as_not_supported() -> None:
    seen = [
        Accelerator(kind="npu", vendor="AMD", name="1022:1502", driver="amdxdna"),
        Accelerator(kind="npu", vendor="Apple", name="Neural Engine"),
        Accelerator(kind="npu", vendor="Intel", name="8086:7d1d", driver="intel_vpu"),
        Accelerator(kind="gpu", vendor="AMD", name="1002:15bf"),
    ]
    rows = undriven(seen)
    assert [row.engine_name for row in rows] == ["AMD XDNA (Ryzen AI)", "Apple Neural Engine"]
    assert not any(row.available for row in rows)
    assert all("not supported" in row.detail for row in rows)


ENUM, CLASS = r"SYSTEM\CurrentControlSet\Enum", r"SYSTEM\CurrentControlSet\Control\Class"
GPU, NPU = "{4d36e968-e325-11ce-bfc1-08002be10318}", "{F01A9D53-3FF6-48D2-9F97-C8A7004BE10C}"
REGISTRY = {
    rf"{ENUM}\PCI\VEN_1022&DEV_1502&SUBSYS_0\4&1": {
        "ClassGUID": NPU, "DeviceDesc": "@oem7.inf,%npu%;NPU Compute Accelerator Device", "Service": "IpuMcdmDriver",
        "Driver": rf"{NPU}\0000",
    },
    rf"{ENUM}\PCI\VEN_8086&DEV_7D1D&SUBSYS_0\3&1": {"ClassGUID": NPU, "DeviceDesc": "@oem2.inf,%a%;Intel(R) AI Boost"},
    rf"{ENUM}\PCI\VEN_10DE&DEV_2684&SUBSYS_0\5&1": {"ClassGUID": GPU, "DeviceDesc": "NVIDIA GeForce RTX 4090"},
    rf"{ENUM}\PCI\VEN_8086&DEV_15F3&SUBSYS_0\6&1": {"ClassGUID": "{4d36e972-e325-11ce-bfc1-08002be10318}"},
    rf"{ENUM}\PCI\VEN_1414&DEV_008E&SUBSYS_0\7&1": {"ClassGUID": GPU, "DeviceDesc": "a virtual display"},
    rf"{ENUM}\ACPI\QCOM0D0A\0": {"ClassGUID": NPU, "DeviceDesc": "@oem9.inf,%h%;Snapdragon(R) X - Hexagon(TM) NPU"},
    rf"{CLASS}\{NPU}\0000": {"DriverVersion": "32.0.203.240"},
}  # fmt: skip


class Registry:
    """What of ``winreg`` is used, over a dictionary of keys."""

    HKEY_LOCAL_MACHINE = 0

    def OpenKey(self, root: int, path: str) -> Any:  # noqa: N802
        below = sorted({key[len(path) + 1 :].split("\\")[0] for key in REGISTRY if key.startswith(f"{path}\\")})
        if not below and path not in REGISTRY:
            raise FileNotFoundError(path)
        return nullcontext((below, REGISTRY.get(path, {})))

    def QueryInfoKey(self, key: Any) -> tuple[int, int, int]:  # noqa: N802
        return len(key[0]), len(key[1]), 0

    def EnumKey(self, key: Any, index: int) -> str:  # noqa: N802
        return str(key[0][index])

    def QueryValueEx(self, key: Any, name: str) -> tuple[str, int]:  # noqa: N802
        if name not in key[1]:
            raise FileNotFoundError(name)
        return key[1][name], 1


def test_windows_lists_gpus_and_npus_in_its_registry() -> None:
    found = {accelerator.label(): accelerator for accelerator in from_registry(Registry())}
    assert sorted(found) == [
        "gpu NVIDIA GeForce RTX 4090 (driver none)",
        "npu AMD NPU Compute Accelerator Device (driver IpuMcdmDriver 32.0.203.240)",
        "npu Intel(R) AI Boost (driver none)",
        "npu Qualcomm Snapdragon(R) X - Hexagon(TM) NPU (driver none)",
    ]
    assert [row.engine_name for row in undriven(list(found.values()))] == ["AMD XDNA (Ryzen AI)"]


def test_apple_silicon_has_a_neural_engine_that_nobody_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    (row,) = undriven(accelerators())
    assert (row.engine_name, row.available) == ("Apple Neural Engine", False)
    assert "it is not supported" in row.detail


def test_an_npu_that_nobody_drives_is_in_the_list(monkeypatch: pytest.MonkeyPatch, plugin: None) -> None:
    seen = (Accelerator(kind="npu", vendor="AMD", name="1022:1502", driver="amdxdna"),)
    monkeypatch.setattr("slmbench.machine.devices.accelerators", lambda: seen)
    found = list_devices(["fine"])
    assert [row.engine_name for row in found.rows if row.backend is None] == ["AMD XDNA (Ryzen AI)"]
    assert "npu AMD 1022:1502 (driver amdxdna)" in found.system
