"""The machine around a sample: foreign activity, clock, temperature, power source.

Everything here is read outside the timed region. Processor time is read at every sample (well under a
millisecond); clock, temperature and power source are slow on some systems and are read at most twice a second.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from slmbench.records.schema import Conditions

#: Systems count processor time in ticks of 10 to 16 ms per core: over a shorter span foreign activity would be
#: made of rounding. A shorter sample is judged with what directly preceded it.
MINIMUM_SPAN_S = 0.5
SLOW_READ_INTERVAL_S = 0.5
_HISTORY = 256

#: Sensor chips of processors, the best first.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")


@dataclass(frozen=True)
class CpuReading:
    """Processor time up to one moment, in seconds summed over the cores this process may use."""

    #: ``time.perf_counter`` of the reading.
    at: float
    #: Time in which a core executed anything, ours included; not stolen time.
    busy: float
    #: Time in which a core was wanted here and the hypervisor ran another machine on it.
    stolen: float
    #: Time of our own processes.
    own: float


def foreign_cores(before: CpuReading, after: CpuReading) -> float:
    """Return the foreign activity between two readings, in cores: ``max(busy − own, 0) + stolen`` per second.

    Stolen time counts as foreign: it was taken from us as surely as by a process of this machine. Own time may
    contain stolen time on some kernels, so the difference is floored before it is added.
    """
    span = after.at - before.at
    foreign = max(after.busy - before.busy - (after.own - before.own), 0.0)
    return (foreign + max(after.stolen - before.stolen, 0.0)) / span


class CpuClock:
    """Reads the machine's and our own processor time. Our processes are given by id, not searched for."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._cores = usable_cores()
        self._processes: dict[int, psutil.Process] = {}
        #: Last known processor time of each process that was ever ours: the dead keep theirs.
        self._own_s: dict[int, float] = {}
        self._offset_s: dict[int, float] = {}
        for pid in pids:
            self.track(pid)

    def track(self, pid: int) -> None:
        """Count the process as ours from now on; one that does not exist is left out."""
        try:
            process = psutil.Process(pid)
            start = _process_seconds(process)
        except psutil.Error:
            return
        self._processes[pid] = process
        self._own_s[pid] = self._own_s.get(pid, 0.0)
        self._offset_s[pid] = start - self._own_s[pid]

    def read(self) -> CpuReading:
        """Return the processor times up to now."""
        for pid, process in list(self._processes.items()):
            try:
                self._own_s[pid] = _process_seconds(process) - self._offset_s[pid]
            except psutil.Error:
                del self._processes[pid]
        times = psutil.cpu_times(percpu=True)
        chosen = [t for core, t in enumerate(times) if core in self._cores] or times
        busy = sum(getattr(t, name, 0.0) for t in chosen for name in ("user", "nice", "system", "irq", "softirq"))
        stolen = sum(getattr(t, "steal", 0.0) for t in chosen)
        return CpuReading(time.perf_counter(), busy, stolen, sum(self._own_s.values()))


class ConditionsReader:
    """Tells what was around a sample: ``before()`` it, ``after()`` it.

    ``pids`` are the processes whose load is ours (the host, its workers); by default this process and its
    children of this moment. A worker that starts later is added with :meth:`track`. Not thread-safe.
    """

    def __init__(self, pids: Iterable[int] | None = None, *, clock: Callable[[], CpuReading] | None = None) -> None:
        self._cpu = CpuClock(process_tree() if pids is None else pids)
        self._read = clock or self._cpu.read
        self._history: deque[CpuReading] = deque([self._read()], maxlen=_HISTORY)
        self._begin: CpuReading | None = None
        self._slow = Conditions()
        self._slow_at = float("-inf")

    def track(self, pid: int) -> None:
        """Count the process as ours from now on."""
        self._cpu.track(pid)

    def settle(self, wait_s: float) -> None:
        """Start again, and wait ``MINIMUM_SPAN_S``: then even a short sample shows foreign activity.

        To be called once workers have been started or ended: a process's time before it was tracked, and its last
        moments, cannot be distinguished from foreign activity.
        """
        self._history.clear()
        self.before()
        time.sleep(wait_s)

    def before(self) -> None:
        """Note the moment before a sample."""
        self._begin = self._read()
        self._history.append(self._begin)

    def after(self) -> Conditions:
        """Return the conditions of the sample that just ended.

        Foreign activity is that between :meth:`before` and now, in cores; where this is shorter than
        ``MINIMUM_SPAN_S``, from the last reading that makes the span long enough. It is None while there is none.
        """
        now = self._read()
        load = self._foreign_load(now)
        self._history.append(now)
        if now.at - self._slow_at >= SLOW_READ_INTERVAL_S:
            self._slow = Conditions(cpu_mhz=cpu_mhz(), temperature_c=temperature_c(), on_battery=on_battery())
            self._slow_at = now.at
        return self._slow.model_copy(update={"foreign_load": load})

    def _foreign_load(self, now: CpuReading) -> float | None:
        begin = self._begin
        if begin is None or now.at - begin.at < MINIMUM_SPAN_S:
            old = (r for r in reversed(self._history) if now.at - r.at >= MINIMUM_SPAN_S)
            begin = next(old, None)
        return None if begin is None else round(foreign_cores(begin, now), 4)


def process_tree(pid: int | None = None) -> list[int]:
    """Return the ids of a process (this one by default) and of all its descendants."""
    root = psutil.Process(pid)
    return [root.pid, *(child.pid for child in root.children(recursive=True))]


def usable_cores() -> set[int]:
    """Return the logical cores this process may run on; all of them where the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return set(affinity() if affinity else range(psutil.cpu_count() or 1))


def cpu_mhz() -> float | None:
    """Return the mean current clock of the cores in MHz, or None where the system does not tell."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, RuntimeError, NotImplementedError):
        # psutil's ways to say that this system does not tell.
        return None
    return float(frequency.current) if frequency and frequency.current > 0 else None


def temperature_c() -> float | None:
    """Return the hottest processor sensor in °C, or None where there is none."""
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return None
    try:
        chips = read()
    except OSError:
        return None
    for name in _CPU_SENSORS:
        values = [float(sensor.current) for sensor in chips.get(name, ()) if sensor.current]
        if values:
            return max(values)
    return None


def on_battery() -> bool | None:
    """Return whether the machine runs on its battery, or None where there is none or the system does not tell."""
    read = getattr(psutil, "sensors_battery", None)
    if read is None:
        return None
    try:
        battery = read()
    except (OSError, RuntimeError):
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def _process_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
