"""What the limits of a device allow: the share of them that was used, and the shortest time a generation can take.

A phase can be no faster than its operations at the matrix rate, nor than its bytes at the read bandwidth (the
roofline: Williams, Waterman & Patterson 2009). How limits are measured is :mod:`slmbench.machine.limits`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import Field, ValidationError

from slmbench.case import Case
from slmbench.models import cost_model
from slmbench.records.schema import CaseInfo
from slmbench.terms import ComputePrecision, Device, StrictModel

SCHEMA_VERSION = 1
#: A bandwidth this many times memory's is the work of a cache, not of noise.
_CACHED = 1.05
#: Bytes of an element of K or V by compute precision; where only products quantise their input, K/V stay fp32.
_KV_BYTES: dict[ComputePrecision, float] = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int16": 2.0, "int8": 4.0}


def kv_bytes(case: Case) -> float:
    """Return the bytes of an element of K or V in a case."""
    # llama.cpp has them in half precision beside 8-bit products.
    return 2.0 if case.format == "gguf" and case.compute_precision == "int8" else _KV_BYTES[case.compute_precision]


class BandwidthPoint(StrictModel):
    """The rate at which weights of so many bytes in all are read, over and over."""

    footprint_bytes: int = Field(gt=0, le=2**60)
    bytes_per_s: float = Field(gt=0, le=1e18)


class MatrixRate(StrictModel):
    """Operations per second of a matrix product with that compute precision asked for."""

    flops_per_s: float = Field(gt=0, le=1e21)
    #: As the engine tells it; some compute in fp32 what they are asked to compute in fp16.
    effective: str


class Limits(StrictModel):
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
    refused: dict[ComputePrecision, str] = Field(default_factory=dict)
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


def limits_of_case(info: CaseInfo, limits: Mapping[str, Any]) -> Limits | None:
    """Return the limits of the case's engine on its device (``engine|device``), if the run kept them."""
    try:
        return Limits.model_validate(limits[f"{info.engine}|{info.case.device}"])
    except (KeyError, ValidationError):
        return None


def shortest_times(info: CaseInfo, limits: Limits) -> dict[str, float]:
    """Return the shortest ``ttft`` and ``tpot`` in s that the limits allow the case; each only where it is known.

    A phase takes the longer of operations ÷ matrix rate and bytes ÷ read bandwidth, phases follow each other. What a
    call costs, normalisations and the exponentials of attention are not in it: measured times are longer.
    """
    case, weights = info.case, cost_model.decode_weights(info.checkpoint.geometry)
    rate = limits.matrix.get(case.compute_precision)
    if rate is None or info.decode_weight_bytes is None or not limits.bandwidth:
        return {}
    phases = cost_model.phases(
        info.checkpoint,
        case.workload,
        weight_bytes=info.decode_weight_bytes / weights,
        kv_bytes=kv_bytes(case),
    )
    times = {
        phase.name: max(phase.flops / rate.flops_per_s, phase.bytes / limits.bandwidth_at(phase.bytes))
        for phase in phases
    }
    step = times.pop("decode_step", None)
    return {"ttft": math.fsum(times.values())} | ({"tpot": step} if step is not None else {})
