"""What a device can do at best, as one engine reaches it: read bandwidth by footprint, matrix rate by precision.

A decode step reads all weights once for one row: its bound is the bandwidth of a chain of matrix-vector
products of the same size in bytes. Reading a prompt multiplies matrices: its bound is the rate of a chain of
matrix-matrix products. Both chains are run by the engine itself, in a process of their own, and kept per
machine fingerprint, engine version and thread count.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import ValidationError

from slmbench.backend import Backend, LimitsProbe, load_backend, load_backends
from slmbench.errors import BadInputError, CannotRunError
from slmbench.machine.cpu import physical_cores
from slmbench.machine.fingerprint import collect
from slmbench.machine.probe import ProbeRequest, ProbeResult, ProbeTask
from slmbench.measure.conditions import CpuClock, foreign_cores, process_tree
from slmbench.records.limits import QUIET_CORES, SCHEMA_VERSION, BandwidthPoint, Limits, MatrixRate
from slmbench.system.container import cores_within_quota
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir
from slmbench.system.processes import child_environment
from slmbench.terms import ComputePrecision, Device

MIB = 2**20
TIMEOUT_S = 180
LOOK_S = 0.5
#: Below, between and beyond the last-level caches of today's processors (8 to 384 MiB).
FOOTPRINTS_MIB = (8, 32, 64, 128, 256, 512)
#: Of square matrices. On a CPU the product of those that fit its inner caches is up to 1.4 times as fast.
WIDTHS: dict[Device, tuple[int, ...]] = {"cpu": (512, 2048), "npu": (512, 2048), "gpu": (2048, 8192)}
_LAYERS = 2
_LARGE_MIB = 128
#: How soon limits that others disturbed are measured again.
AGAIN_AFTER = timedelta(hours=1)
#: Quantised arithmetic is left out: it belongs to a graph with its scales, a chain of products has none.
PROBED: tuple[ComputePrecision, ...] = ("fp32", "fp16", "bf16")


def cached_limits(backend: Backend, device: Device, threads: int | None = None) -> Limits | None:
    """Return the limits measured earlier on this machine with these versions, None if there are none.

    Those measured on a quiet machine come before those that other processes disturbed.
    """
    kept = []
    for path in _paths(backend, device, threads or cores_within_quota(physical_cores())):
        try:
            kept.append(Limits.model_validate_json(read_regular(path)))
        except (OSError, ValidationError):
            continue
    known = [limits for limits in kept if limits.schema_version == SCHEMA_VERSION]
    return min(known, key=lambda limits: limits.disturbed, default=None)


def measure_limits(
    backend: Backend,
    device: Device,
    threads: int | None = None,
    *,
    footprints_mib: tuple[int, ...] | None = None,
    widths: tuple[int, ...] | None = None,
) -> Limits:
    """Measure the limits of a device through a backend's engine and keep them. Takes up to 20 s.

    A limit is the best that was ever seen: of what was kept before and what is measured now, the higher stays. A
    machine can be slow for minutes (heat, neighbours of a virtual machine), and nothing measures too fast.

    ``widths`` are those of the square matrices whose products are timed (:data:`WIDTHS` by default): the best counts.

    Raises:
        CannotRunError: no backend of this engine has a probe, or the engine lacks the device.
    """
    threads = threads or cores_within_quota(physical_cores())
    prober = probing_backend(backend)
    stored: ComputePrecision = "fp16" if device == "npu" else "fp32"
    item_bytes = 2 if stored == "fp16" else 4
    vectors = [_vector_task(mib, stored, item_bytes) for mib in _that_fit(footprints_mib or FOOTPRINTS_MIB)]
    squares = [
        ProbeTask(rows=width, width=width, layers=_LAYERS, compute_precision=precision)
        for precision in PROBED
        for width in widths or WIDTHS[device]
    ]
    request = ProbeRequest(backend=prober.name, device=device, threads=threads, tasks=(*squares, *vectors))
    results = _run(request)
    used = max((result.foreign_load for result in results if result.foreign_load is not None), default=None)
    matrix, refused = _matrix_rates(squares, results)
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
        foreign_load=used,
        disturbed=used is not None and used > QUIET_CORES,
    )
    earlier = cached_limits(backend, device, threads)
    best = limits if earlier is None else limits.or_higher(earlier)
    path = _paths(backend, device, threads)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, best.model_dump_json(indent=1) + "\n")
    return best


def _matrix_rates(
    squares: list[ProbeTask], results: list[ProbeResult]
) -> tuple[dict[ComputePrecision, MatrixRate], dict[ComputePrecision, str]]:
    """Return the best rate of each precision, and why there is none of the others."""
    matrix: dict[ComputePrecision, MatrixRate] = {}
    refused: dict[ComputePrecision, str] = {}
    for task, result in zip(squares, results, strict=False):
        precision = task.compute_precision
        if result.step_ns is None:
            refused[precision] = result.refusal or "not measured"
            continue
        rate = task.shape().flops / result.step_ns * 1e9
        if precision not in matrix or rate > matrix[precision].flops_per_s:
            matrix[precision] = MatrixRate(flops_per_s=rate, effective=result.compute_precision or "")
    return matrix, {precision: why for precision, why in refused.items() if precision not in matrix}


def limits_of(backend_name: str, device: Device, threads: int | None = None, *, again: bool = False) -> Limits:
    """Return the kept limits of a device through a backend's engine, measuring them first where there are none.

    Those that other processes disturbed are measured again if the machine is quiet now, an hour later at the soonest:
    where others come and go, every run would spend its time on them.

    Raises:
        BadInputError: unknown backend, or a thread count below 1.
        CannotRunError: they cannot be measured.
    """
    if threads is not None and threads < 1:
        raise BadInputError(f"threads must be 1 or more, not {threads}")
    backend = load_backend(backend_name)
    found = None if again else cached_limits(backend, device, threads)
    if found is None or (found.disturbed and _is_old(found) and cores_used_by_others() <= QUIET_CORES):
        return measure_limits(backend, device, threads)
    return found


def _is_old(limits: Limits) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(limits.measured) > AGAIN_AFTER


def cores_used_by_others() -> float:
    """Look for half a second how many cores other processes keep busy."""
    clock = CpuClock(process_tree())
    before = clock.read()
    time.sleep(LOOK_S)
    return foreign_cores(before, clock.read())


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


def _paths(backend: Backend, device: Device, threads: int) -> list[Path]:
    """Return where the limits are kept, and where they were kept before a reboot."""
    versions = json.dumps(_versions(probing_backend(backend)), sort_keys=True)
    tag = hashlib.sha256(versions.encode()).hexdigest()[:8]
    name = f"{backend.engine}-{device}-{threads}-{tag}.json"
    return [cache_dir() / "limits" / digest / name for digest in collect().digests()]
