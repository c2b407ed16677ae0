"""What the limits of a device are, as they are kept on disk."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from pydantic import Field, model_validator

from slmbench.records.without_folders import Message
from slmbench.terms import ComputePrecision, Device, Natural, StrictModel

SCHEMA_VERSION = 1
#: Cores that other processes may use while limits are measured; with more the limits come out too low.
QUIET_CORES = 0.1


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
    threads: Natural
    versions: dict[str, str]
    #: :meth:`Fingerprint.digest` of the machine.
    machine: str
    measured: str
    #: By footprint, rising.
    bandwidth: tuple[BandwidthPoint, ...]
    matrix: dict[ComputePrecision, MatrixRate]
    #: Compute precisions that the engine has not here, and why.
    refused: dict[ComputePrecision, Message] = Field(default_factory=dict)
    #: Cores that others kept busy meanwhile, at most; None where not readable.
    foreign_load: float | None = None
    #: Other processes used more than :data:`QUIET_CORES`. To be measured again when the machine is quiet.
    disturbed: bool = False

    @model_validator(mode="before")
    @classmethod
    def _marked(cls, raw: Any) -> Any:
        """Mark limits that an earlier slmbench measured on a busy machine."""
        if not isinstance(raw, dict) or "disturbed" in raw:
            return raw
        used = raw.get("foreign_load")
        return {**raw, "disturbed": isinstance(used, int | float) and used > QUIET_CORES}

    def or_higher(self, earlier: Limits) -> Limits:
        """Return these limits with the higher of both figures wherever the earlier ones have one too."""
        points = {one.footprint_bytes: one for one in earlier.bandwidth}
        for one in self.bandwidth:
            known = points.get(one.footprint_bytes)
            points[one.footprint_bytes] = max(known or one, one, key=lambda point: point.bytes_per_s)
        rates = {
            precision: max(earlier.matrix.get(precision, rate), rate, key=lambda one: one.flops_per_s)
            for precision, rate in (earlier.matrix | self.matrix).items()
        }
        return self.model_copy(
            update={
                "bandwidth": tuple(points[size] for size in sorted(points)),
                "matrix": rates,
                "refused": {name: why for name, why in self.refused.items() if name not in rates},
                "disturbed": self.disturbed and earlier.disturbed,
            }
        )

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
