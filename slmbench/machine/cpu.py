"""The processor as software sees it: model, instruction sets, usable cores, clock policy, hypervisor."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import psutil

from slmbench.measure.conditions import usable_cores
from slmbench.system.container import PROC, read_text

SYS = Path("/sys")

#: Instruction sets that decide which kernels an engine picks, by the names that systems give them.
_FLAGS = re.compile(
    r"f16c|fma|avx|avx2|avx512\w*|avx_vnni\w*|avx_ifma|avx_ne_convert|avx10\w*|amx_?\w+"
    r"|asimd|asimdhp|asimddp|neon|fphp|i8mm|bf16|sve|sve2|svei8mm|svebf16|sme(?!p)\w*|feat_\w+"
)
_VIRTUAL_VENDORS = ("qemu", "kvm", "vmware", "innotek", "xen", "microsoft corporation", "amazon ec2", "google", "bochs")


def cpu_model(proc: Path = PROC) -> str:
    """Return the processor's name as the system tells it."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    if sys.platform == "win32":
        return _windows_cpu_model() or platform.processor()
    info = cpuinfo(proc)
    implementer = " ".join(f"{k} {info[k]}" for k in ("CPU implementer", "CPU part", "CPU variant") if k in info)
    family = " ".join(info[k] for k in ("cpu family", "model", "stepping") if k in info)
    name = info.get("model name") or info.get("Model") or implementer or platform.machine()
    return f"{name} ({family})" if family else name


def cpu_flags(proc: Path = PROC) -> tuple[str, ...]:
    """Return the instruction sets that matter for inference, sorted; empty where the system does not tell."""
    if sys.platform == "darwin":
        lines = (_sysctl("hw.optional", values_only=False) or "").splitlines()
        pairs = (line.partition(":") for line in lines)
        names = [key.rpartition(".")[2].lower() for key, _, value in pairs if value.strip() == "1"]
    elif sys.platform == "win32":
        names = _windows_flags()
    else:
        info = cpuinfo(proc)
        names = (info.get("flags") or info.get("Features") or "").split()
    return tuple(sorted({name for name in names if _FLAGS.fullmatch(name)}))


def cpuinfo(proc: Path = PROC) -> dict[str, str]:
    """Return ``/proc/cpuinfo``'s first processor as a dictionary; empty elsewhere than on Linux."""
    text = (read_text(proc / "cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def physical_cores(sys_root: Path = SYS) -> int:
    """Return the number of physical cores behind the logical ones this process may use."""
    ids = set()
    for core in usable_cores():
        topology = sys_root / "devices/system/cpu" / f"cpu{core}" / "topology"
        siblings = read_text(topology / "thread_siblings_list")
        if siblings is None:
            return min(psutil.cpu_count(logical=False) or len(usable_cores()), len(usable_cores()))
        ids.add(siblings)
    return len(ids)


def governor(sys_root: Path = SYS) -> str | None:
    """Return the clock governor(s) of all cores, joined by "+"; the power plan on Windows; None if unknown."""
    if sys.platform == "win32":
        plan = re.search(r"\(([^)]*)\)\s*$", _output(["powercfg", "/getactivescheme"]) or "")
        return plan.group(1) if plan else None
    found = {read_text(p) for p in (sys_root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return "+".join(sorted(name for name in found if name)) or None


def turbo(sys_root: Path = SYS) -> bool | None:
    """Return whether the clock may rise above its nominal value; None where the system does not tell."""
    cpus = sys_root / "devices/system/cpu"
    no_turbo = read_text(cpus / "intel_pstate/no_turbo")
    if no_turbo in ("0", "1"):
        return no_turbo == "0"
    boost = read_text(cpus / "cpufreq/boost")
    return boost == "1" if boost in ("0", "1") else None


def smt(sys_root: Path = SYS) -> bool | None:
    """Return whether two logical cores share a physical one; None where the system does not tell."""
    active = read_text(sys_root / "devices/system/cpu/smt/active")
    if active in ("0", "1"):
        return active == "1"
    logical, physical = psutil.cpu_count(), psutil.cpu_count(logical=False)
    return logical > physical if logical and physical else None


def hypervisor(proc: Path = PROC, sys_root: Path = SYS) -> str | None:
    """Return what this machine is a guest of, "unnamed" if that is all it tells; None on bare metal."""
    name = read_text(sys_root / "hypervisor/type")
    if name:
        return name
    vendor = (read_text(sys_root / "class/dmi/id/sys_vendor") or "").lower()
    if "hypervisor" in cpuinfo(proc).get("flags", "").split():
        return vendor or "unnamed"
    return vendor if vendor.startswith(_VIRTUAL_VENDORS) and "microsoft" not in vendor else None


def emulator(proc: Path = PROC) -> str | None:
    """Return what translates our instructions for another processor: qemu, Rosetta, Windows; None on a real one."""
    if sys.platform == "darwin":
        return "Rosetta 2" if _sysctl("sysctl.proc_translated") == "1" else None
    if sys.platform == "win32":
        return _windows_emulator()
    try:
        # qemu hides behind /proc/self and /proc/PID, not behind this link.
        name = (proc / "thread-self" / "exe").readlink().name
    except OSError:
        return None
    return name if name.startswith("qemu-") else None


def _windows_emulator() -> str | None:
    if sys.platform != "win32":
        return None
    import ctypes

    own, native = ctypes.c_ushort(), ctypes.c_ushort()
    kernel = ctypes.windll.kernel32
    if not kernel.IsWow64Process2(kernel.GetCurrentProcess(), ctypes.byref(own), ctypes.byref(native)):
        return None
    # IMAGE_FILE_MACHINE_ARM64, winnt.h.
    return "Windows on Arm" if native.value == 0xAA64 and "AMD64" in sys.version else None


def _sysctl(name: str, *, values_only: bool = True) -> str | None:
    return _output(["sysctl", *(["-n"] if values_only else []), name])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _windows_cpu_model() -> str | None:
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    except OSError:
        return None


def _windows_flags() -> list[str]:
    if sys.platform != "win32":
        return []
    import ctypes

    # PF_*_AVAILABLE of IsProcessorFeaturePresent, winnt.h.
    known = {"neon": 19, "avx": 39, "avx2": 40, "avx512f": 41, "asimddp": 43, "sve": 46, "sve2": 47}
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return [name for name, number in known.items() if present(number)]
