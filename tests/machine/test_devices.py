from __future__ import annotations

from pathlib import Path

import pytest

from slmbench.machine.accelerators import Accelerator
from slmbench.machine.devices import ask_backend, list_devices, undriven

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
    assert ask_backend("hangs", timeout_s=2) == "no answer in 2 s"


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
