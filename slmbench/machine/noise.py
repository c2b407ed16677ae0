"""The noise floor of a machine: how far identical runs of identical things lie apart here.

It is measured by ``slmbench calibrate`` and kept per machine fingerprint; a verdict never calls a difference
below it a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.machine.fingerprint import Fingerprint
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir

SCHEMA_VERSION = 1
#: Share of pairs of identical runs that lie within the floor.
COVERAGE = 0.95
#: A floor beyond this is no machine's noise but a damaged file; no change at all would be seen with it.
MOST = 10.0


class NoiseFloor(BaseModel):
    """What a calibration found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    #: :meth:`Fingerprint.digest` of the machine.
    machine: str
    measured: str
    #: Identical runs that were held against each other.
    runs: int
    cases: tuple[str, ...]
    #: By metric, as a share: 95 % of the pairs of identical runs differ by less, in the noisiest case.
    metrics: dict[str, Annotated[float, Field(ge=0, le=MOST)]]
    #: Share of the samples that other processes disturbed; much of it makes the floor too high.
    disturbed: float = 0.0


def spread(log_levels: Sequence[float]) -> float:
    """Return the share that 95 % of the pairs of identical runs stay below: a quantile of ``exp|a − b| − 1``.

    ``log_levels`` holds the log of each run's figure (its level over loads). All pairs are taken: what a
    comparison holds against each other is two runs.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(log_levels) < 2:
        raise ValueError("a spread takes at least two runs")
    apart = [abs(a - b) for a, b in combinations(log_levels, 2)]
    return float(np.expm1(np.quantile(apart, COVERAGE)))


def floor_of(levels: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Return by metric the largest :func:`spread` over cases; ``levels`` is case → metric → a log level a run.

    A metric that a run lacks in some case is left out of that case.
    """
    runs = max((len(values) for case in levels.values() for values in case.values()), default=0)
    found: dict[str, float] = {}
    for case in levels.values():
        for metric, values in case.items():
            if len(values) == runs >= 2:
                found[metric] = max(found.get(metric, 0.0), spread(values))
    return found


def save_noise_floor(floor: NoiseFloor) -> Path:
    """Keep a noise floor for its machine, replacing an earlier one; return the file."""
    path = _path(floor.machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, floor.model_dump_json(indent=1) + "\n")
    return path


def read_noise_floor(fingerprint: Fingerprint) -> NoiseFloor | None:
    """Return what was kept for this machine, None if it was never calibrated (or by another slmbench)."""
    for digest in fingerprint.digests():
        try:
            found = NoiseFloor.model_validate_json(read_regular(_path(digest)))
        except (OSError, ValidationError):
            continue
        if found.schema_version == SCHEMA_VERSION:
            return found
    return None


def noise_floors(fingerprint: Fingerprint) -> dict[str, float]:
    """Return the floor by metric as a share; empty for a machine that was never calibrated."""
    found = read_noise_floor(fingerprint)
    return dict(found.metrics) if found else {}


def noise_floor(fingerprint: Fingerprint, metric: str) -> float | None:
    """Return the floor of one metric as a share, None where it is not known."""
    return noise_floors(fingerprint).get(metric)


def _path(machine: str) -> Path:
    return cache_dir() / "noise" / f"{machine}.json"
