"""Limits that are there before a run of a test asks for them.

Measuring them takes up to 20 s an engine, and slmbench measures again what other processes disturbed: next to other
tests that is every time. How they are measured has tests of its own (tests/machine/test_limits.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slmbench.backend import LimitsProbe, load_backend, load_backends
from slmbench.machine.cpu import physical_cores
from slmbench.machine.fingerprint import collect
from slmbench.records.limits import BandwidthPoint, Limits, MatrixRate
from slmbench.system.container import cores_within_quota

#: Beyond what any CPU reaches, so that no figure of a test is marked as faster than the limits allow.
BANDWIDTH, RATE = 1e13, 1e16


def keep_limits(cache: Path, *, bandwidth: float = BANDWIDTH, rate: float = RATE) -> None:
    """Keep limits of this machine's CPU in a cache, for each engine that is installed."""
    for backend in load_backends()[0]:
        if isinstance(backend, LimitsProbe):
            keep_limits_of(backend.engine, _versions(backend.distributions), cache, bandwidth, rate)


def keep_limits_like(engine: str, backend: str, cache: Path, **more: str) -> None:
    """Keep limits of a test's own engine that is made of a backend; ``more`` are versions of its distributions."""
    versions = _versions(load_backend(backend).distributions)
    keep_limits_of(engine, versions | {name.replace("_", "-"): one for name, one in more.items()}, cache)


def keep_limits_of(
    engine: str, versions: Mapping[str, str], cache: Path, bandwidth: float = BANDWIDTH, rate: float = RATE
) -> None:
    """Keep limits of that engine in these versions."""
    machine = collect().digest()
    tag = hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:8]
    for threads in {1, 2, cores_within_quota(physical_cores())}:
        limits = Limits(
            engine=engine, device="cpu", threads=threads, versions=dict(versions), machine=machine, measured="",
            bandwidth=(BandwidthPoint(footprint_bytes=2**29, bytes_per_s=bandwidth),),
            matrix={"fp32": MatrixRate(flops_per_s=rate, effective="fp32")},
        )  # fmt: skip
        path = cache / "limits" / machine / f"{engine}-cpu-{threads}-{tag}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limits.model_dump_json(), encoding="utf-8")


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
