"""What a device can do at best, as one engine reaches it: read bandwidth by footprint, matrix rate by precision.

A decode step reads all weights once for one row: its bound is the bandwidth of a chain of matrix-vector
products of the same size in bytes. Reading a prompt multiplies matrices: its bound is the rate of a chain of
matrix-matrix products. Both chains are run by the engine itself, in a process of their own, and kept per
machine fingerprint, engine version and thread count.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from slmbench.backend import Backend, LimitsProbe, load_backend, load_backends
from slmbench.children import child_environment
from slmbench.errors import BadInputError, CannotRunError
from slmbench.machine.cpu import physical_cores
from slmbench.machine.fingerprint import collect
from slmbench.machine.probe import ProbeRequest, ProbeResult, ProbeTask
from slmbench.paths import cache_dir
from slmbench.records import write_whole
from slmbench.terms import ComputePrecision, Device

SCHEMA_VERSION = 1
MIB = 2**20
TIMEOUT_S = 180
#: Below, between and beyond the last-level caches of today's processors (8 to 384 MiB).
FOOTPRINTS_MIB = (8, 32, 64, 128, 256, 512)
_LARGE_MIB = 128
#: Quantised arithmetic is left out: it belongs to a graph with its scales, a chain of products has none.
PROBED: tuple[ComputePrecision, ...] = ("fp32", "fp16", "bf16")
#: A bandwidth this many times memory's is the work of a cache, not of noise.
_CACHED = 1.05


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BandwidthPoint(_Frozen):
    """The rate at which weights of so many bytes in all are read, over and over."""

    footprint_bytes: int
    bytes_per_s: float


class MatrixRate(_Frozen):
    """Operations per second of a matrix product with that compute precision asked for."""

    flops_per_s: float
    #: As the engine tells it; some compute in fp32 what they are asked to compute in fp16.
    effective: str


class Limits(_Frozen):
    """The limits of one device through one engine."""

    schema_version: int = SCHEMA_VERSION
    engine: str
    device: Device
    threads: int
    versions: dict[str, str]
    #: :meth:`Fingerprint.digest` of the machine.
    machine: str
    measured: str
    #: By footprint, rising.
    bandwidth: tuple[BandwidthPoint, ...]
    matrix: dict[ComputePrecision, MatrixRate]
    #: Compute precisions that the engine has not here, and why.
    refused: dict[ComputePrecision, str] = {}
    #: Cores that others kept busy meanwhile, at most; None where not readable.
    foreign_load: float | None = None

    def memory_bandwidth(self) -> float:
        """Return the rate from memory in bytes/s: that of the largest footprint."""
        return self.bandwidth[-1].bytes_per_s

    def bandwidth_at(self, footprint_bytes: float) -> float:
        """Return the rate in bytes/s for weights of that size in all, between two measured sizes interpolated.

        A smaller footprint never has a lower limit than a larger one: where it was measured lower, the cost of
        a call showed, not the memory.
        """
        points: list[tuple[float, float]] = []
        best = 0.0
        for point in reversed(self.bandwidth):
            best = max(best, point.bytes_per_s)
            points.insert(0, (math.log2(point.footprint_bytes), best))
        x = math.log2(max(footprint_bytes, 1.0))
        if x <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in pairwise(points):
            if x <= x1:
                return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        return points[-1][1]


@dataclass(frozen=True)
class Use:
    """How much of a limit was used; ``share`` beyond 1.0 never comes without an explanation."""

    share: float
    #: The limit it was held against, in bytes/s or operations/s.
    limit: float
    explanation: str | None = None


def bandwidth_use(decode_step_bytes: float, tpot_ns: float, limits: Limits) -> Use | None:
    """Return how much of the read bandwidth decoding uses: bytes a step must read ÷ tpot ÷ bandwidth.

    The bandwidth is that measured at the size of the step's bytes; where a cache makes it higher than memory's,
    the explanation says so. None where there is nothing to divide.
    """
    if tpot_ns <= 0 or decode_step_bytes <= 0 or not limits.bandwidth:
        return None
    memory, local = limits.memory_bandwidth(), limits.bandwidth_at(decode_step_bytes)
    share = decode_step_bytes / tpot_ns * 1e9 / local
    notes = []
    if local > _CACHED * memory:
        notes.append(
            f"{decode_step_bytes / 1e6:.3g} MB a step stay in the cache, at least in part: held against the "
            f"{local / 1e9:.3g} GB/s measured at that size, not memory's {memory / 1e9:.3g} GB/s"
        )
    if share > 1:
        notes.append(_above(limits))
    return Use(share, local, "; ".join(notes) or None)


def compute_use(flops: float, duration_ns: float, limits: Limits, precision: ComputePrecision) -> Use | None:
    """Return how much of the matrix rate was used: operations ÷ duration ÷ rate in that compute precision.

    None where the engine has no such rate, or there is nothing to divide.
    """
    rate = limits.matrix.get(precision)
    if rate is None or duration_ns <= 0 or flops <= 0:
        return None
    share = flops / duration_ns * 1e9 / rate.flops_per_s
    return Use(share, rate.flops_per_s, _above(limits) if share > 1 else None)


def _above(limits: Limits) -> str:
    load = (
        f" with a foreign load of {limits.foreign_load:.1f} cores"
        if limits.foreign_load and limits.foreign_load > 0.1
        else ""
    )
    return f"above the limit: that was measured {limits.measured}{load}; `slmbench limits --again` measures it anew"


def cached_limits(backend: Backend, device: Device, threads: int | None = None) -> Limits | None:
    """Return the limits measured earlier on this machine with these versions, None if there are none."""
    path = _path(backend, device, threads or physical_cores())
    try:
        found = Limits.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.schema_version == SCHEMA_VERSION else None


def measure_limits(
    backend: Backend,
    device: Device,
    threads: int | None = None,
    *,
    footprints_mib: tuple[int, ...] = FOOTPRINTS_MIB,
    width: int | None = None,
) -> Limits:
    """Measure the limits of a device through a backend's engine and keep them. Takes up to 20 s.

    ``width`` is that of the square matrices whose product is timed (by default 2048 on a CPU or NPU, 8192 on a GPU).

    Raises:
        CannotRunError: no backend of this engine has a probe, or the engine lacks the device.
    """
    threads = threads or physical_cores()
    prober = probing_backend(backend)
    stored: ComputePrecision = "fp16" if device == "npu" else "fp32"
    item_bytes = 2 if stored == "fp16" else 4
    vectors = [_vector_task(mib, stored, item_bytes) for mib in _that_fit(footprints_mib)]
    width = width or (8192 if device == "gpu" else 2048)
    squares = [ProbeTask(rows=width, width=width, layers=2, compute_precision=p) for p in PROBED]
    request = ProbeRequest(backend=prober.name, device=device, threads=threads, tasks=(*squares, *vectors))
    results = _run(request)
    loads = [result.foreign_load for result in results if result.foreign_load is not None]
    matrix: dict[ComputePrecision, MatrixRate] = {}
    refused: dict[ComputePrecision, str] = {}
    for task, result in zip(squares, results, strict=False):
        if result.step_ns is None:
            refused[task.compute_precision] = result.refusal or "not measured"
        else:
            rate = task.shape().flops / result.step_ns * 1e9
            matrix[task.compute_precision] = MatrixRate(flops_per_s=rate, effective=result.compute_precision or "")
    points = [
        BandwidthPoint(footprint_bytes=size, bytes_per_s=size / result.step_ns * 1e9)
        for task, result in zip(vectors, results[len(squares) :], strict=True)
        if result.step_ns is not None and (size := task.shape().weight_bytes(item_bytes))
    ]
    if not points:
        raise CannotRunError(f"no limits of {device} through {backend.name}: {results[-1].refusal}")
    limits = Limits(
        engine=backend.engine,
        device=device,
        threads=threads,
        versions=_versions(prober),
        machine=collect().digest(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        bandwidth=tuple(points),
        matrix=matrix,
        refused=refused,
        foreign_load=max(loads, default=None),
    )
    path = _path(backend, device, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, limits.model_dump_json(indent=1) + "\n")
    return limits


def limits_of(backend_name: str, device: Device, threads: int | None = None, *, again: bool = False) -> Limits:
    """Return the kept limits of a device through a backend's engine, measuring them first where there are none.

    Raises:
        BadInputError: unknown backend, or a thread count below 1.
        CannotRunError: they cannot be measured.
    """
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be 1 or more, not {threads}")
    backend = load_backend(backend_name)
    found = None if again else cached_limits(backend, device, threads)
    return found or measure_limits(backend, device, threads)


def probing_backend(backend: Backend) -> Backend:
    """Return the backend itself if it has a probe, else one of the same engine that has.

    Raises:
        CannotRunError: there is none.
    """
    if isinstance(backend, LimitsProbe):
        return backend
    others, _ = load_backends()
    probing = [other for other in others if isinstance(other, LimitsProbe)]
    for other in probing:
        if other.engine == backend.engine:
            return other
    names = ", ".join(other.name for other in probing) or "none"
    raise CannotRunError(f"backend '{backend.name}' has no probe to measure limits with; these have: {names}")


def _vector_task(mib: int, precision: ComputePrecision, item_bytes: int) -> ProbeTask:
    width = 2048 if mib >= _LARGE_MIB else 1024
    return ProbeTask(rows=1, width=width, layers=mib * MIB // (width**2 * item_bytes), compute_precision=precision)


def _that_fit(footprints_mib: tuple[int, ...]) -> list[int]:
    """Return the footprints that leave room: engines hold a matrix up to three times while they load it."""
    available = psutil.virtual_memory().available / MIB
    return [mib for mib in sorted(footprints_mib) if 4 * mib < available] or [min(footprints_mib)]


def _run(request: ProbeRequest) -> list[ProbeResult]:
    """Run all tasks, a new process after each crash, and return a result for each."""
    results: list[ProbeResult] = []
    while len(results) < len(request.tasks):
        rest = request.model_copy(update={"tasks": request.tasks[len(results) :]})
        found, failure = _run_process(rest)
        results += found
        if len(results) < len(request.tasks):
            results.append(ProbeResult(refusal=failure))
    return results


def _run_process(request: ProbeRequest) -> tuple[list[ProbeResult], str]:
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "results.jsonl", Path(folder) / "log.txt"
        output.touch()
        command = [sys.executable, "-P", "-m", "slmbench.machine.probe", request.model_dump_json(), str(output)]
        with log.open("wb") as sink:
            try:
                code: int | None = subprocess.run(
                    command, stdout=sink, stderr=sink, timeout=TIMEOUT_S, check=False, env=child_environment()
                ).returncode
            except subprocess.TimeoutExpired:
                code = None
        lines = output.read_text(encoding="utf-8").splitlines()
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    how = f"no answer in {TIMEOUT_S} s" if code is None else f"the engine's process ended with {code}"
    return [ProbeResult.model_validate_json(line) for line in lines], f"{how}{': ' if last else ''}{last}"


def _versions(backend: Backend) -> dict[str, str]:
    found = {}
    for name in backend.distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _path(backend: Backend, device: Device, threads: int) -> Path:
    versions = json.dumps(_versions(probing_backend(backend)), sort_keys=True)
    tag = hashlib.sha256(versions.encode()).hexdigest()[:8]
    return cache_dir() / "limits" / collect().digest() / f"{backend.engine}-{device}-{threads}-{tag}.json"
