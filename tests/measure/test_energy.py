from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from slmbench.measure.energy import EnergyReader, find_energy


def zone(root: Path, name: str, label: str, uj: int, limit: int = 1_000_000) -> Path:
    folder = root / "class/powercap" / name
    folder.mkdir(parents=True)
    for file, text in {"name": label, "energy_uj": uj, "max_energy_range_uj": limit}.items():
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def battery(root: Path, **files: object) -> Path:
    folder = root / "class/power_supply/BAT0"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def joules(reader: EnergyReader) -> float:
    value = reader.read_j()
    assert value is not None
    return value


def test_rapl_sums_packages_and_memory_and_counts_nothing_twice(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 50)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 10)
    psys = zone(tmp_path, "intel-rapl:1", "psys", 500)
    reader = EnergyReader.open("cpu", sys_root=tmp_path)
    assert reader is not None
    assert reader.source == "RAPL"
    before = joules(reader)
    for counter, uj in ((package, 300_100), (core, 200_000), (dram, 20_010), (psys, 900_000)):
        counter.write_text(str(uj))
    assert joules(reader) - before == pytest.approx(0.32)


def test_a_rapl_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 999_000, limit=1_000_000)
    reader = EnergyReader.open("cpu", sys_root=tmp_path)
    assert reader is not None
    before = joules(reader)
    counter.write_text("2000")
    assert joules(reader) - before == pytest.approx(3e-3)
    counter.write_text("5000")
    assert joules(reader) - before == pytest.approx(6e-3)


def test_a_counter_that_only_root_may_read_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read_text = Path.read_text

    def refuse(self: Path, *args: str, **kwargs: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert EnergyReader.open("cpu", sys_root=tmp_path) is None
    reason = find_energy("cpu", sys_root=tmp_path)
    assert isinstance(reason, str)
    assert "root only" in reason
    assert "chmod" in reason


def test_a_counter_that_goes_away_is_empty_not_zero(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    reader = EnergyReader.open("cpu", sys_root=tmp_path)
    assert reader is not None
    counter.unlink()
    assert reader.read_j() is None


def test_without_any_counter_the_reasons_are_told(tmp_path: Path) -> None:
    assert EnergyReader.open("npu", sys_root=tmp_path) is None
    assert find_energy("npu", sys_root=tmp_path) == "no battery"
    assert "no zones" in str(find_energy("cpu", sys_root=tmp_path))


def test_a_battery_is_integrated_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 3.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    battery(tmp_path, status="Discharging", power_now=10_000_000)
    reader = EnergyReader.open("npu", sys_root=tmp_path)
    assert reader is not None
    battery(tmp_path, power_now=14_000_000)
    assert joules(reader) == pytest.approx(24.0)
    battery(tmp_path, status="Charging")
    assert reader.read_j() is None


def test_a_battery_that_tells_current_and_voltage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    battery(tmp_path, status="Discharging", current_now=-1_000_000, voltage_now=12_000_000)
    reader = EnergyReader.open("cpu", sys_root=tmp_path)
    assert reader is not None
    assert reader.source == "battery"
    assert joules(reader) == pytest.approx(12.0)


def test_a_machine_on_mains_has_no_battery_counter(tmp_path: Path) -> None:
    battery(tmp_path, status="Full", power_now=0)
    assert find_energy("npu", sys_root=tmp_path) == "BAT0: the battery is not discharging"


def fake_nvml(millijoules: list[int] | None) -> ModuleType:
    module = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def consumption(handle: object) -> int:
        if millijoules is None:
            raise NVMLError("Not Supported")
        return millijoules[0]

    functions = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80),
        "nvmlDeviceGetName": lambda handle: b"H100",
        "nvmlDeviceGetTotalEnergyConsumption": consumption,
    }
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def test_nvml_counts_millijoules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = [5000]
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(counter))
    reader = EnergyReader.open("gpu", sys_root=tmp_path)
    assert reader is not None
    assert (reader.source, reader.read_j()) == ("NVML", 5.0)
    counter[0] = 6500
    assert reader.read_j() == 6.5


def test_a_gpu_without_a_counter_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(None))
    assert find_energy("gpu", sys_root=tmp_path) == "NVML: H100 has no energy counter; no battery"
