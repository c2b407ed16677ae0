"""What would disturb a run on this machine: looked at once, then judged by plain functions over what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

import psutil

from slmbench.machine.cpu import SYS, emulator
from slmbench.machine.doctor_engines import judge_engines, look_at_engines
from slmbench.machine.finding import Finding, Severity
from slmbench.machine.fingerprint import Fingerprint, collect
from slmbench.measure.conditions import CpuClock, CpuReading, foreign_cores, on_battery, process_tree, temperature_c
from slmbench.system.container import read_text

OBSERVE_S = 1.0
#: Above this share of a core, others' work moves our numbers (measured: see docs/methodology.md).
FOREIGN_LOAD_CORES = 0.06
#: Other processes that are named.
HEAVIEST = 3
HOT_C = 90.0
MINIMUM_AVAILABLE_BYTES = 4 * 2**30
SLOW_CLOCK_NS = 1000.0
_ONNXRUNTIME_FILE = "onnxruntime/__init__.py"

#: Windows power plans that do not hold the clock back, by their English names.
_FAST_PLANS = ("high performance", "ultimate performance")


@dataclass(frozen=True)
class Sight:
    """What was seen of the machine."""

    fingerprint: Fingerprint
    #: Cores that others kept busy while we looked, stolen time included.
    foreign_load: float = 0.0
    #: Cores the hypervisor took away while we looked.
    stolen: float = 0.0
    #: The heaviest other processes: name, id, cores.
    heaviest: tuple[tuple[str, int, float], ...] = ()
    on_battery: bool | None = None
    temperature_c: float | None = None
    #: Throttling events since the start of the system, and those while we looked.
    throttled: int = 0
    throttled_now: int = 0
    swap_used_bytes: int = 0
    #: Bytes swapped in or out while we looked.
    swapped_bytes: int = 0
    available_bytes: int = 2**62
    clock_source: str | None = None
    #: What one reading of the clock costs.
    clock_ns: float = 0.0
    #: Distributions that own the module ``onnxruntime``.
    onnxruntime_owners: tuple[str, ...] = field(default=())
    #: Logical cores of the machine, also those that this process may not use; 0 where unknown.
    machine_cores: int = 0
    #: What translates our instructions, where this processor is not the real one.
    emulator: str | None = None


def examine(observe_s: float = OBSERVE_S) -> list[Finding]:
    """Look at this machine for ``observe_s`` seconds, then ask its engines; return what disturbs, the worst first."""
    sight = look(observe_s)
    return by_severity([*judge(sight), *judge_engines(look_at_engines(sight.fingerprint))])


def look(observe_s: float = OBSERVE_S, sys_root: Path = SYS) -> Sight:
    """Observe the machine; takes ``observe_s`` seconds and a little."""
    ours = process_tree()
    clock = CpuClock(ours)
    throttled, swapped = _throttle_count(sys_root), _swapped_bytes()
    seconds, begin = _process_seconds(ours), clock.read()
    time.sleep(observe_s)
    end, later = clock.read(), _process_seconds(ours)
    span = end.at - begin.at
    used = [(pid, (now - seconds.get(pid, ("", 0.0))[1]) / span, name) for pid, (name, now) in later.items()]
    heaviest = sorted(used, key=lambda entry: entry[1], reverse=True)[:HEAVIEST]
    count = _throttle_count(sys_root)
    return Sight(
        fingerprint=collect(),
        foreign_load=foreign_cores(begin, end),
        stolen=foreign_cores(CpuReading(begin.at, 0, begin.stolen, 0), CpuReading(end.at, 0, end.stolen, 0)),
        heaviest=tuple((name, pid, round(cores, 2)) for pid, cores, name in heaviest if cores > 0.01),
        on_battery=on_battery(),
        temperature_c=temperature_c(),
        throttled=count,
        throttled_now=count - throttled,
        swap_used_bytes=int(psutil.swap_memory().used),
        swapped_bytes=_swapped_bytes() - swapped,
        available_bytes=int(psutil.virtual_memory().available),
        clock_source=read_text(sys_root / "devices/system/clocksource/clocksource0/current_clocksource"),
        clock_ns=_clock_ns(),
        onnxruntime_owners=onnxruntime_owners(),
        machine_cores=psutil.cpu_count() or 0,
        emulator=emulator(),
    )


def judge(sight: Sight) -> list[Finding]:
    """Return what disturbs among what was seen, the worst first."""
    return by_severity(finding for check in _CHECKS for finding in check(sight))


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the worst first."""
    order: tuple[Severity, ...] = ("wrong", "noise", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def onnxruntime_owners() -> tuple[str, ...]:
    """Return the installed distributions that bring the module ``onnxruntime``: pip lets several overwrite it."""
    owners = set()
    for distribution in distributions():
        # Its folder has its name; reading the metadata of every package takes a quarter of a second.
        place = getattr(distribution, "_path", None)
        if "onnxruntime" not in (distribution.name or "" if place is None else place.name).lower():
            continue
        if any(str(file) == _ONNXRUNTIME_FILE for file in distribution.files or ()):
            owners.add(distribution.name)
    return tuple(sorted(owners))


def _load(sight: Sight) -> Iterator[Finding]:
    if sight.foreign_load <= FOREIGN_LOAD_CORES:
        return
    names = ", ".join(f"{name} ({pid}) {cores:.2f}" for name, pid, cores in sight.heaviest)
    yield Finding(
        name="other processes",
        severity="noise",
        what=f"{sight.foreign_load:.2f} cores are busy with other work{': ' + names if names else ''}",
        why="other work takes cores, cache and memory bandwidth; samples under it are marked",
        remedy="end or pause it, or measure with arms: interleaved ratios keep within a few percent under load",
    )


def _stolen(sight: Sight) -> Iterator[Finding]:
    if sight.stolen > 0.01:
        yield Finding(
            name="steal",
            severity="noise",
            what=f"the hypervisor takes {sight.stolen:.2f} cores away",
            why="another guest runs on our cores; nothing in this machine can see when",
            remedy="use a machine with dedicated cores, or measure with arms",
        )
    if sight.fingerprint.hardware.hypervisor:
        yield Finding(
            name="hypervisor",
            severity="note",
            what=f"a guest of a hypervisor ({sight.fingerprint.hardware.hypervisor})",
            why="clock, temperature and neighbours are hidden; memory placement changes from load to load",
            remedy="more loads a case; gate with arms rather than against a baseline from another day",
        )


def _governor(sight: Sight) -> Iterator[Finding]:
    name = sight.fingerprint.hardware.governor
    if sight.fingerprint.hardware.os == "Linux" and name and name != "performance":
        yield Finding(
            name="governor",
            severity="noise",
            what=f"the clock governor is {name}",
            why="the clock follows the load of the last milliseconds: short generations run slower",
            remedy="sudo cpupower frequency-set -g performance",
        )


def _power_plan(sight: Sight) -> Iterator[Finding]:
    plan = sight.fingerprint.hardware.governor
    if sight.fingerprint.hardware.os == "Windows" and plan and plan.lower() not in _FAST_PLANS:
        yield Finding(
            name="power plan",
            severity="noise",
            what=f"the power plan is {plan}",
            why="it lets the clock follow the load of the last milliseconds, and parks cores",
            remedy="powercfg /setactive SCHEME_MIN, unless this plan is what you measure",
        )


def _emulated(sight: Sight) -> Iterator[Finding]:
    if sight.emulator:
        yield Finding(
            name="emulated processor",
            severity="wrong",
            what=f"{sight.emulator} translates every instruction",
            why="tokens and placement are right, times are the emulator's",
            remedy="measure times on a real processor, with a Python built for it",
        )


def _cores(sight: Sight) -> Iterator[Finding]:
    usable = sight.fingerprint.hardware.logical_cores
    if usable < sight.machine_cores:
        yield Finding(
            name="cores",
            severity="note",
            what=f"this process may use {usable} of {sight.machine_cores} logical cores",
            why="affinity (taskset, a container's cpuset) keeps engines from the others, and sets their threads",
            remedy="start slmbench without it, unless these cores are what you measure",
        )


def _turbo(sight: Sight) -> Iterator[Finding]:
    if sight.fingerprint.hardware.turbo:
        yield Finding(
            name="turbo",
            severity="note",
            what="the clock may rise above its nominal value (turbo, boost)",
            why="how long it stays there depends on temperature and on the neighbouring cores",
            remedy="for a baseline: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo "
            "(or echo 0 into /sys/devices/system/cpu/cpufreq/boost); leave it on to know what users see",
        )


def _smt(sight: Sight) -> Iterator[Finding]:
    hardware = sight.fingerprint.hardware
    if hardware.smt:
        yield Finding(
            name="smt",
            severity="note",
            what=f"{hardware.logical_cores} logical cores on {hardware.physical_cores} physical ones",
            why="two threads on one core share its arithmetic units; slmbench starts one thread a physical core",
            remedy="nothing while the machine is quiet; else echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )


def _power(sight: Sight) -> Iterator[Finding]:
    if sight.on_battery:
        yield Finding(
            name="battery",
            severity="noise",
            what="the machine runs on its battery",
            why="most machines lower their clock and their power limit then",
            remedy="plug it in, unless the battery is what you measure",
        )


def _heat(sight: Sight) -> Iterator[Finding]:
    hot = sight.temperature_c is not None and sight.temperature_c >= HOT_C
    if sight.throttled_now or hot:
        degrees = f"{sight.temperature_c:.0f} °C, " if sight.temperature_c is not None else ""
        yield Finding(
            name="heat",
            severity="noise",
            what=f"{degrees}{sight.throttled_now} throttling events while we looked",
            why="a hot processor lowers its clock: later samples are slower than earlier ones",
            remedy="let it cool, mend the airflow, or lower the load before measuring",
        )
    elif sight.throttled:
        yield Finding(
            name="heat",
            severity="note",
            what=f"{sight.throttled} throttling events since the system started",
            why="under a long load this machine lowers its clock",
            remedy="watch the drift flags of a run: first third against last third",
        )


def _quota(sight: Sight) -> Iterator[Finding]:
    quota, cores = sight.fingerprint.hardware.cpu_quota_cores, sight.fingerprint.hardware.physical_cores
    if quota is not None and quota < cores:
        yield Finding(
            name="cpu quota",
            severity="wrong",
            what=f"the container may use {quota:g} cores' time on {cores} cores",
            why="with a thread a core the kernel stops all of them for the rest of every 100 ms: "
            "the slow tail is the quota's, not the model's",
            remedy=f"`slmbench run --threads {max(int(quota), 1)}`, "
            "or give the container whole cores (docker: --cpuset-cpus)",
        )


def _memory(sight: Sight) -> Iterator[Finding]:
    if sight.available_bytes < MINIMUM_AVAILABLE_BYTES:
        yield Finding(
            name="memory",
            severity="noise",
            what=f"{sight.available_bytes / 2**30:.1f} GiB of memory are available",
            why="a 1B model in fp32 needs 4 GiB; where weights do not stay in memory, the disk is measured",
            remedy="free memory, or measure smaller models; cases that do not fit run in blocks",
        )
    if sight.swapped_bytes:
        yield Finding(
            name="swap",
            severity="wrong",
            what=f"{sight.swapped_bytes / 2**20:.1f} MiB went to or came from swap while we looked",
            why="a weight that is read from disk is no longer a matter of the engine",
            remedy="free memory, then sudo swapoff -a",
        )
    elif sight.swap_used_bytes:
        yield Finding(
            name="swap",
            severity="note",
            what=f"{sight.swap_used_bytes / 2**20:.0f} MiB lie in swap",
            why="memory was short earlier; swapped pages come back at some moment of a run",
            remedy="sudo swapoff -a && sudo swapon -a",
        )


def _onnxruntime(sight: Sight) -> Iterator[Finding]:
    if len(sight.onnxruntime_owners) > 1:
        yield Finding(
            name="onnxruntime twice",
            severity="wrong",
            what=f"{', '.join(sight.onnxruntime_owners)} all own the module onnxruntime",
            why="the one installed last has overwritten the others: versions in the records may be another's",
            remedy="pip uninstall all of them, then install the one you want",
        )


def _clock(sight: Sight) -> Iterator[Finding]:
    if sight.clock_ns > SLOW_CLOCK_NS:
        yield Finding(
            name="clock",
            severity="noise",
            what=f"reading the clock takes {sight.clock_ns:.0f} ns (source: {sight.clock_source or 'unknown'})",
            why="every token is stamped; a system call for each stamp shows in small models",
            remedy="tsc is the fastest source there is; a hypervisor or an emulator slows it: use another machine"
            if sight.clock_source == "tsc"
            else "boot with clocksource=tsc if the processor's counter is stable",
        )


def _settings(sight: Sight) -> Iterator[Finding]:
    for name, value in sight.fingerprint.software.environment.items():
        yield Finding(
            name="environment",
            severity="note",
            what=f"{name}={value} is set",
            why="it changes threads, instruction sets or memory of some engines and not of others; it is recorded",
            remedy=f"unset {name}, unless you mean it: `slmbench run --threads` sets the number for every engine",
        )


_CHECKS: tuple[Callable[[Sight], Iterator[Finding]], ...] = (
    _emulated,
    _quota,
    _onnxruntime,
    _memory,
    _load,
    _stolen,
    _governor,
    _power_plan,
    _cores,
    _power,
    _heat,
    _clock,
    _turbo,
    _smt,
    _settings,
)


def _process_seconds(ours: list[int]) -> dict[int, tuple[str, float]]:
    found = {}
    for process in psutil.process_iter(["pid", "name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid not in ours and process.pid != 0:
            found[process.pid] = (process.info["name"] or "?", float(times.user + times.system))
    return found


def _throttle_count(sys_root: Path) -> int:
    files = (sys_root / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    return sum(int(text) for path in files if (text := read_text(path)) and text.isdigit())


def _swapped_bytes() -> int:
    swap = psutil.swap_memory()
    return int(swap.sin + swap.sout)


def _clock_ns(batches: int = 20, readings: int = 100) -> float:
    """Return what a reading costs in the quickest of several batches: others may take the core during any of them."""

    def batch() -> float:
        begin = time.perf_counter_ns()
        for _ in range(readings):
            time.perf_counter_ns()
        return (time.perf_counter_ns() - begin) / readings

    return min(batch() for _ in range(batches))
