"""What is in the code for Windows and macOS alone, on a simulated one; neither was ever run."""

from __future__ import annotations

import ctypes
import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from known_limits import keep_limits

from slmbench.cli import run_main
from slmbench.machine import cpu
from slmbench.measure.memory import peak_rss_bytes
from slmbench.running import worker_process
from slmbench.running.worker_process import explain_exit
from slmbench.system import processes

#: What Windows takes in no file name, and names that are devices there whatever their ending.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[ .]$')
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M3 Pro",
        ("sysctl", "-n", "sysctl.proc_translated"): "1",
        ("sysctl", "hw.optional"): "hw.optional.neon: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\n",
    }
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu, "_output", lambda command: said.get(tuple(command)))


def test_a_mac_tells_its_processor_by_sysctl(mac: None) -> None:
    assert cpu.cpu_model() == "Apple M3 Pro"
    assert cpu.cpu_flags() == ("feat_bf16", "neon")
    assert cpu.emulator() == "Rosetta 2"


class Registry:
    HKEY_LOCAL_MACHINE = 0

    def OpenKey(self, root: int, path: str) -> Any:  # noqa: N802
        assert path == r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        return io.StringIO()

    def QueryValueEx(self, key: Any, name: str) -> tuple[str, int]:  # noqa: N802
        return {"ProcessorNameString": "  Snapdragon(R) X Elite  "}[name], 1


class Kernel32:
    """What of it is asked: an arm64 machine that runs us as x86-64."""

    def GetCurrentProcess(self) -> int:  # noqa: N802
        return -1

    def IsWow64Process2(self, process: int, own: Any, native: Any) -> int:  # noqa: N802
        own._obj.value, native._obj.value = 0x8664, 0xAA64
        return 1

    def IsProcessorFeaturePresent(self, number: int) -> int:  # noqa: N802
        return int(number in (19, 43))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "winreg", Registry())
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=Kernel32()), raising=False)
    # As a German Windows writes it.
    plan = "GUID des Energieschemas: 381b4222-f694-41f0-9685-ff5bb260df2e  (Ausbalanciert)"
    monkeypatch.setattr(cpu, "_output", lambda command: plan if command[0] == "powercfg" else None)


def test_windows_tells_its_processor_by_registry_and_kernel(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.cpu_model() == "Snapdragon(R) X Elite"
    assert cpu.cpu_flags() == ("asimddp", "neon")
    assert cpu.governor() == "Ausbalanciert"
    monkeypatch.setattr(sys, "version", "3.12.7 (tags/v3.12.7) [MSC v.1941 64 bit (AMD64)]")
    assert cpu.emulator() == "Windows on Arm"
    monkeypatch.setattr(sys, "version", "3.12.7 (tags/v3.12.7) [MSC v.1941 64 bit (ARM64)]")
    assert cpu.emulator() is None


def test_windows_keeps_the_peak_of_another_process(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(pid: int) -> Any:
        if pid == 1:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=12345))

    monkeypatch.setattr(psutil, "Process", process)
    assert (peak_rss_bytes(7), peak_rss_bytes(1)) == (12345, None)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0xC0000005, "0xC0000005 (a fault in the engine's memory); try: "),
        (0xC000001D, "0xC000001D (an instruction that this CPU or system does not permit); try: "),
        (0xC0000135, "0xC0000135 (a DLL is missing); try: "),
        (0xC0000420, "exception 0xC0000420"),
    ],
)
def test_exceptions_of_windows_are_explained(windows: None, code: int, told: str) -> None:
    reason, message = explain_exit(code)
    assert reason == "crashed"
    assert told in message


def test_a_worker_on_windows_gets_a_group_of_its_own_and_knows_its_host(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **given: seen.update(given, command=command))
    worker = worker_process.Worker.__new__(worker_process.Worker)
    worker._spawn(["python", "-m", "slmbench.worker"], io.BytesIO())
    assert seen["creationflags"] == 0x200
    assert seen["env"]["SLMBENCH_HOST"]
    assert "process_group" not in seen


def test_without_docstrings_windows_starts_the_command_again(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ``execve`` would return to the shell at once: the command is a child, and its exit code is passed on."""
    seen: dict[str, Any] = {}

    def call(command: list[str], env: dict[str, str]) -> int:
        seen.update(command=command, env=env)
        return 3

    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    monkeypatch.setattr(sys, "orig_argv", ["python.exe", "-OO", "-m", "slmbench", "run"])
    monkeypatch.setattr(processes.subprocess, "call", call)
    with pytest.raises(SystemExit) as ended:
        processes.keep_docstrings()
    assert ended.value.code == 3
    assert seen["command"] == [sys.executable, "-O", "-m", "slmbench", "run"]
    assert seen["env"]["PYTHONOPTIMIZE"] == "1"


def test_no_file_of_a_run_has_a_name_that_windows_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, report, plots and cache; keys of cases hold what Windows does not take."""
    pytest.importorskip("onnxruntime", reason="needs slmbench[cpu]")
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    keep_limits(tmp_path / "cache")
    out = tmp_path / "run"
    asked = ["--model", "mu-tiny", "--backend", "onnxruntime", "--input-tokens", "16", "--output-tokens", "4"]
    assert run_main(["run", *asked, "--repeat", "1", "--out", str(out)]) == 0
    assert run_main(["table", str(out), "--plots", str(tmp_path / "plots")]) == 0
    paths = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    assert len(paths) > 15
    for path in paths:
        assert not _FORBIDDEN.search(path.name), path
        assert path.name.split(".")[0].lower() not in _DEVICES, path
        # Of the 260 characters that a path has there, the user's folder takes a part.
        assert len(str(path)) < 180, path
    assert len({str(path).casefold() for path in paths}) == len(paths)
