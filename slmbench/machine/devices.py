"""Every device each backend looked for, and the accelerators nobody here drives.

Engines are asked in processes of their own, one a backend: ``python -m slmbench.machine.devices BACKEND OUTPUT``.
One that crashes or hangs while it looks costs its own rows alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from slmbench.backend import DeviceStatus, backend_names, load_backend
from slmbench.errors import SlmbenchError, one_line
from slmbench.machine.accelerators import Accelerator, accelerators
from slmbench.measure.nvml import gpus
from slmbench.terms import Device

TIMEOUT_S = 60.0
#: Engines that are asked at the same time.
_PARALLEL = 2
#: NPUs for which no backend of slmbench exists, by vendor.
_UNDRIVEN = {"AMD": "AMD XDNA (Ryzen AI)", "Apple": "Apple Neural Engine"}


class DeviceRow(BaseModel):
    """One device one backend looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: None for a device that no backend drives.
    backend: str | None
    device: Device
    #: The engine's own name for it.
    engine_name: str
    available: bool
    #: What it is, or what was looked for and what was found instead.
    detail: str
    #: What to install or switch on if it is missing.
    remedy: str = ""
    memory_bytes: int | None = None
    driver: str | None = None


class Devices(BaseModel):
    """What was found on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[DeviceRow, ...]
    #: Backends that could not be asked, and why.
    broken: dict[str, str] = {}
    #: What the operating system and the drivers list, whether or not a backend drives it.
    system: tuple[str, ...] = ()


def list_devices(names: Sequence[str] | None = None) -> Devices:
    """Ask every registered backend (or those named) for its devices; takes as long as its engine's import."""
    asked = list(backend_names() if names is None else names)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        answers = list(pool.map(ask_backend, asked))
    broken = {name: answer for name, answer in zip(asked, answers, strict=True) if isinstance(answer, str)}
    rows = [row for answer in answers if not isinstance(answer, str) for row in answer]
    seen = accelerators()
    return Devices(rows=(*rows, *undriven(seen)), broken=broken, system=tuple(_system(seen)))


def ask_backend(name: str, timeout_s: float = TIMEOUT_S) -> list[DeviceRow] | str:
    """Return a backend's rows, or why it gave none (one line)."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "devices.json"
        command = [sys.executable, "-P", "-m", "slmbench.machine.devices", name, str(output)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer in {timeout_s:.0f} s"
        if done.returncode or not output.exists():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            return one_line(": ".join([f"its process ended with {done.returncode}", *last]))
        answer = json.loads(output.read_text(encoding="utf-8"))
    if isinstance(answer, str):
        return answer
    return [DeviceRow(backend=name, **row) for row in answer]


def undriven(seen: Sequence[Accelerator]) -> list[DeviceRow]:
    """Return a row for each NPU that the system has and no backend drives."""
    return [
        DeviceRow(
            backend=None,
            device="npu",
            engine_name=_UNDRIVEN[found.vendor],
            available=False,
            detail=f"{found.label()} is here; it is not supported: no backend drives it",
            remedy="a backend of your own: docs/backends.md",
        )
        for found in seen
        if found.kind == "npu" and found.vendor in _UNDRIVEN
    ]


def _system(seen: Sequence[Accelerator]) -> list[str]:
    lines = [found.label() for found in seen]
    nvidia = gpus()
    if isinstance(nvidia, str):
        return [*lines, f"NVIDIA: {nvidia}"] if any(found.vendor == "NVIDIA" for found in seen) else lines
    return [*lines, *(f"NVML: {g.name}, {g.memory_bytes / 2**30:.0f} GiB, driver {g.driver}" for g in nvidia)]


def _answer(name: str) -> list[DeviceStatus] | str:
    try:
        return list(load_backend(name).devices())
    except SlmbenchError as error:
        return one_line(str(error))
    except Exception as error:  # someone else's plugin: whatever it raises is its failure, not ours
        return one_line(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    found = _answer(sys.argv[1])
    text = json.dumps(found if isinstance(found, str) else [asdict(status) for status in found])
    Path(sys.argv[2]).write_text(text, encoding="utf-8")
