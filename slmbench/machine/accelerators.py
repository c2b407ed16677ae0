"""GPUs and NPUs as the operating system sees them, without any engine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slmbench.errors import one_line
from slmbench.machine.cpu import SYS
from slmbench.system.container import PROC, read_text

_VENDORS = {"0x8086": "Intel", "0x10de": "NVIDIA", "0x1002": "AMD", "0x1022": "AMD", "0x17cb": "Qualcomm"}

_ENUM, _CLASS = r"SYSTEM\CurrentControlSet\Enum", r"SYSTEM\CurrentControlSet\Control\Class"
#: Windows' classes of devices: display adapters, and compute accelerators (NPUs).
_CLASSES: dict[str, Literal["gpu", "npu"]] = {
    "{4d36e968-e325-11ce-bfc1-08002be10318}": "gpu",
    "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}": "npu",
}


class Accelerator(BaseModel):
    """One GPU or NPU of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["gpu", "npu"]
    vendor: str
    #: Its name, or the PCI vendor and device number where the system has no name for it.
    name: str
    #: Kernel driver with its version where it has one of its own: "nvidia 580.65", "intel_vpu"; None if unbound.
    driver: str | None = None

    def label(self) -> str:
        """Return "gpu NVIDIA H100 (driver nvidia 580.65)"."""
        vendor = "" if self.name.startswith(self.vendor) else f"{self.vendor} "
        return f"{self.kind} {vendor}{self.name} (driver {self.driver or 'none'})"


def accelerators(sys_root: Path = SYS, proc: Path = PROC) -> tuple[Accelerator, ...]:
    """Return the GPUs and NPUs that the system lists, in a stable order; virtual display adapters left out."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        chip = platform.processor() or "Apple silicon"
        return (
            Accelerator(kind="gpu", vendor="Apple", name=f"{chip} GPU", driver="Metal"),
            Accelerator(kind="npu", vendor="Apple", name="Neural Engine", driver="Core ML"),
        )
    if sys.platform == "win32":
        import winreg

        return tuple(sorted(from_registry(winreg), key=lambda a: (a.kind, a.vendor, a.name)))
    found = [a for d in sorted((sys_root / "bus/pci/devices").glob("*")) if (a := _pci(d, sys_root, proc)) is not None]
    if (sys_root / "class/misc/fastrpc-cdsp").exists():
        found.append(Accelerator(kind="npu", vendor="Qualcomm", name="Hexagon", driver="fastrpc"))
    return tuple(sorted(found, key=lambda a: (a.kind, a.vendor, a.name)))


def from_registry(registry: Any) -> Iterator[Accelerator]:
    """Yield the GPUs and NPUs in the registry of Windows; ``registry`` is the module ``winreg``.

    Devices are recognised by their class, and vendors by the number from the bus: of PCI, or Qualcomm's by its name.
    """
    for bus in ("PCI", "ACPI"):
        for hardware in _keys(registry, rf"{_ENUM}\{bus}"):
            vendor = _VENDORS.get(f"0x{hardware[4:8].lower()}") if bus == "PCI" else None
            if hardware.upper().startswith("QCOM"):
                vendor = "Qualcomm"
            if vendor is None:
                continue
            for instance in _keys(registry, rf"{_ENUM}\{bus}\{hardware}"):
                where = rf"{_ENUM}\{bus}\{hardware}\{instance}"
                kind = _CLASSES.get((_value(registry, where, "ClassGUID") or "").lower())
                if kind is None:
                    continue
                # "@oem7.inf,%name%;Intel(R) AI Boost": the text behind the last semicolon is what people see.
                name = (_value(registry, where, "DeviceDesc") or hardware).rpartition(";")[2]
                key = _value(registry, where, "Driver")
                version = _value(registry, rf"{_CLASS}\{key}", "DriverVersion") if key else None
                service = _value(registry, where, "Service")
                driver = " ".join(part for part in (service, version) if part) or None
                yield Accelerator(kind=kind, vendor=vendor, name=one_line(name), driver=driver)


def _keys(registry: Any, path: str) -> list[str]:
    try:
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, path) as key:
            return [registry.EnumKey(key, index) for index in range(registry.QueryInfoKey(key)[0])]
    except OSError:
        return []


def _value(registry: Any, path: str, name: str) -> str | None:
    try:
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, path) as key:
            return str(registry.QueryValueEx(key, name)[0])
    except OSError:
        return None


def _pci(device: Path, sys_root: Path, proc: Path) -> Accelerator | None:
    vendor_id, class_id = read_text(device / "vendor") or "", read_text(device / "class") or ""
    driver_link = device / "driver"
    driver = driver_link.resolve().name if driver_link.exists() else None
    vendor = _VENDORS.get(vendor_id)
    if vendor is None:
        return None
    # 0x03: display controllers; 0x12: processing accelerators; AMD's XDNA calls itself a signal processor.
    if class_id.startswith("0x03"):
        kind: Literal["gpu", "npu"] = "gpu"
    elif class_id.startswith("0x12") or driver in ("intel_vpu", "amdxdna"):
        kind = "npu"
    else:
        return None
    version = read_text(sys_root / "module" / driver / "version") if driver else None
    name = _nvidia_name(device.name, proc) if vendor == "NVIDIA" else None
    return Accelerator(
        kind=kind,
        vendor=vendor,
        name=name or f"{vendor_id[2:]}:{(read_text(device / 'device') or '')[2:]}",
        driver=f"{driver} {version}" if driver and version else driver,
    )


def _nvidia_name(address: str, proc: Path) -> str | None:
    text = read_text(proc / "driver/nvidia/gpus" / address / "information") or ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model:")]
    return names[0] if names else None
