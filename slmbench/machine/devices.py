"""Every device each backend looked for, and the accelerators nobody here drives.

Engines are asked in a process of their own: ``python -m slmbench.machine.devices OUTPUT SECONDS BACKEND...``.
One that crashes or hangs while it looks costs its own rows alone.
"""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from slmbench.backend import DeviceStatus, backend_names, load_backend
from slmbench.errors import SlmbenchError, one_line
from slmbench.machine.accelerators import Accelerator, accelerators
from slmbench.measure.nvml import gpus
from slmbench.terms import Device

TIMEOUT_S = 60.0
#: How the trace begins that Python writes of a process that ran out of time.
_TIMED_OUT = "Timeout ("
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
    """Ask every registered backend (or those named) for its devices; takes as long as their engines' imports."""
    asked = list(backend_names() if names is None else names)
    answers = ask_backends(asked)
    broken = {name: answer for name in asked if isinstance(answer := answers[name], str)}
    rows = [row for name in asked if not isinstance(answer := answers[name], str) for row in answer]
    seen = accelerators()
    return Devices(rows=(*rows, *undriven(seen)), broken=broken, system=tuple(_system(seen)))


def ask_backends(names: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, list[DeviceRow] | str]:
    """Return each backend's rows, or why it gave none (one line).

    One process asks them in turn; where it ends early, the next one begins with the backend that it ended in.
    """
    answers: dict[str, list[DeviceRow] | str] = {}
    while waiting := [name for name in names if name not in answers]:
        found, failure = _ask(waiting, timeout_s)
        answers |= found
        # Whose fault it was is only known of the one that was asked first: others are asked again, first.
        if not found:
            answers[waiting[0]] = failure or "it gave no answer"
    return answers


def _ask(names: Sequence[str], timeout_s: float) -> tuple[dict[str, list[DeviceRow] | str], str | None]:
    """Return what these backends answer in a process, and why it ended before it had asked all of them."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "devices.jsonl"
        command = [sys.executable, "-P", "-m", "slmbench.machine.devices", str(output), str(timeout_s), *names]
        try:
            # The process ends itself where one backend takes too long; if it cannot even do that, it is ended.
            done = subprocess.run(command, capture_output=True, timeout=timeout_s * len(names) + 30, check=False)
        except subprocess.TimeoutExpired:
            return {}, f"no answer in {timeout_s:.0f} s"
        lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    found = {name: _rows(name, answer) for name, answer in map(json.loads, lines)}
    if not done.returncode:
        return found, None
    errors = done.stderr.decode(errors="replace").strip()
    if _TIMED_OUT in errors:
        return found, f"no answer in {timeout_s:.0f} s"
    return found, one_line(": ".join([f"its process ended with {done.returncode}", *errors.splitlines()[-1:]]))


def _rows(name: str, answer: str | list[dict[str, Any]]) -> list[DeviceRow] | str:
    return answer if isinstance(answer, str) else [DeviceRow(backend=name, **row) for row in answer]


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


def main(output: Path, timeout_s: float, names: Sequence[str]) -> None:
    """Append a line of JSON for each backend: its name, and its devices or why it cannot tell."""
    with output.open("w", encoding="utf-8") as file:
        for name in names:
            # An engine that hangs holds the interpreter as well: only another thread of C can end it.
            faulthandler.dump_traceback_later(timeout_s, exit=True)
            answer = _answer(name)
            statuses = answer if isinstance(answer, str) else [asdict(status) for status in answer]
            file.write(json.dumps([name, statuses]) + "\n")
            file.flush()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
