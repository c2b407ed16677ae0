"""Energy counters: RAPL, NVML, the battery. Read before and after a sample, never during one.

What a counter covers differs: RAPL the processor packages and their memory, NVML one GPU's whole board, the
battery the whole machine. All of them count the activity of other processes along with ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slmbench.measure.nvml import gpus
from slmbench.terms import Device

SYS = Path("/sys")

Source = Callable[[], float]


@dataclass(frozen=True)
class EnergyReader:
    """A counter in joules that only grows. ``source`` says which one: "RAPL", "NVML", "battery"."""

    source: str
    _read: Source

    def read_j(self) -> float | None:
        """Return the joules counted so far, from an arbitrary start; None when the counter has gone.

        Two equal readings mean that the counter is too coarse for what lay between: empty, not zero.
        """
        try:
            return self._read()
        except (OSError, ValueError):
            return None

    @classmethod
    def open(cls, device: Device, *, sys_root: Path = SYS) -> EnergyReader | None:
        """Return the best counter for a device, None if none is readable (:func:`find_energy` says why)."""
        found = find_energy(device, sys_root=sys_root)
        return found if isinstance(found, cls) else None


def find_energy(device: Device, *, sys_root: Path = SYS) -> EnergyReader | str:
    """Return the best counter for a device, or why none is readable (one line)."""
    makers: dict[Device, tuple[Callable[[Path], EnergyReader | str], ...]] = {
        "cpu": (_rapl, _battery),
        "gpu": (_nvml, _battery),
        "npu": (_battery,),
    }
    reasons = []
    for make in makers[device]:
        found = make(sys_root)
        if isinstance(found, EnergyReader):
            return found
        reasons.append(found)
    return "; ".join(reasons)


class _RaplZone:
    """One zone of the power-capping tree; its counter starts again at 0 when it reaches its range."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())
        self._total = 0

    def read_j(self) -> float:
        """Return the joules since this object was made. One wrap between two readings is seen, two are not:
        at 300 W a range of 262 kJ takes 14 minutes."""
        now = int(self._counter.read_text())
        step = now - self._last
        self._total += step if step >= 0 else step + self._range
        self._last = now
        return self._total / 1e6


def _rapl(sys_root: Path) -> EnergyReader | str:
    """Return the sum of all packages and memory controllers; "psys" and "core" would count the same twice."""
    tree = sys_root / "class/powercap"
    folders = [f for f in sorted(tree.glob("intel-rapl:*")) if _zone_name(f).startswith(("package", "dram"))]
    if not folders:
        return "RAPL: no zones in /sys/class/powercap (not exposed to guests, or the driver is not loaded)"
    try:
        zones = [_RaplZone(folder) for folder in folders]
    except PermissionError:
        return "RAPL: energy_uj is readable by root only (`chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`)"
    except (OSError, ValueError) as error:
        return f"RAPL: {error}"
    return EnergyReader("RAPL", lambda: sum(zone.read_j() for zone in zones))


def _zone_name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _nvml(_sys_root: Path) -> EnergyReader | str:
    found = gpus()
    if isinstance(found, str):
        return found
    if not found:
        return "NVML lists no GPU"
    gpu = found[0]
    if gpu.energy_j() is None:
        return f"NVML: {gpu.name} has no energy counter"

    def read() -> float:
        joules = gpu.energy_j()
        if joules is None:
            raise OSError("the energy counter has gone")
        return joules

    return EnergyReader("NVML", read)


class _Battery:
    """Integrates a battery's power over its readings (trapezoid): its energy counter ticks only every 36 J."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._total = 0.0
        self._at, self._watts = time.perf_counter(), self._power_w()

    def read_j(self) -> float:
        """Return the joules since this object was made."""
        at, watts = time.perf_counter(), self._power_w()
        self._total += (watts + self._watts) / 2 * (at - self._at)
        self._at, self._watts = at, watts
        return self._total

    def _power_w(self) -> float:
        if (self._folder / "status").read_text().strip() != "Discharging":
            raise OSError("the battery is not discharging")
        power = self._folder / "power_now"
        if power.exists():
            return abs(int(power.read_text())) / 1e6
        current, voltage = (int((self._folder / name).read_text()) for name in ("current_now", "voltage_now"))
        return abs(current) * voltage / 1e12


def _battery(sys_root: Path) -> EnergyReader | str:
    reasons = []
    for folder in sorted((sys_root / "class/power_supply").glob("BAT*")):
        try:
            battery = _Battery(folder)
        except (OSError, ValueError) as error:
            reasons.append(f"{folder.name}: {error}")
        else:
            return EnergyReader("battery", battery.read_j)
    return "; ".join(reasons) or "no battery"
