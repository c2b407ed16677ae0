"""GPUs and NPUs as the operating system sees them, without any engine."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slmbench.machine.cgroup import PROC, read_text
from slmbench.machine.cpu import SYS

_VENDORS = {"0x8086": "Intel", "0x10de": "NVIDIA", "0x1002": "AMD", "0x1022": "AMD", "0x17cb": "Qualcomm"}


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
    found = [a for d in sorted((sys_root / "bus/pci/devices").glob("*")) if (a := _pci(d, sys_root, proc)) is not None]
    if (sys_root / "class/misc/fastrpc-cdsp").exists():
        found.append(Accelerator(kind="npu", vendor="Qualcomm", name="Hexagon", driver="fastrpc"))
    return tuple(sorted(found, key=lambda a: (a.kind, a.vendor, a.name)))


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
