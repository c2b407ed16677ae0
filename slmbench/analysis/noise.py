"""How identical runs differ on a machine: a variance component, estimated by ``slmbench calibrate``.

Two runs at different times differ by more than their loads explain: the whole machine is a little faster or slower.
No interval within a run can know that, so identical runs are measured one after the other and their levels kept, per
machine fingerprint. Cases that were interleaved in one run share the shift, and it cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slmbench.analysis import stats
from slmbench.analysis.stats import Estimate
from slmbench.machine.fingerprint import Fingerprint
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir

SCHEMA_VERSION = 2
#: Fewer identical runs say too little about how runs differ.
MINIMUM_RUNS = 3
#: More are not worth their time.
MOST_RUNS = 60
#: Standard deviation of a run's level that is assumed where no calibration fits: the upper end of what is usual on
#: shared machines.
ASSUMED_SHIFT = 0.03
#: Separate runs without a calibration that fits are not judged at a gate below this.
DEFAULT_FLOOR = 0.10
#: Without one they show a change only beyond this. Shared machines can be worse than what is assumed: at a standard
#: deviation of 5 %, 1.4 % of identical runs are called different (``verdicts_simulation.py uncalibrated``).
DEFAULT_CHANGE = 0.20
#: Share of pairs of identical runs that lie within a floor.
COVERAGE = 0.95


@dataclass(frozen=True)
class Shift:
    """The variance that identical runs show, as a component of the variance of a ratio of two runs (log scale)."""

    variance: float
    #: Identical runs behind it; 0 where it is assumed.
    runs: int = 0
    #: Why it is assumed, not measured.
    assumed: str = ""
    #: Share of the variance, on the same scale, that the calibration's own loads explain.
    loads_variance: float = 0.0

    @property
    def freedom(self) -> float:
        """Return the degrees of freedom of the variance: runs − 1; infinite where it is assumed."""
        return self.runs - 1.0 if self.runs else math.inf

    @property
    def floor(self) -> float:
        """Return how far two identical runs lie apart at most in 95 % of cases, as a share."""
        return DEFAULT_FLOOR if self.assumed else math.expm1(min(self.reach(1 - COVERAGE), 50.0))

    def reach(self, alpha: float) -> float:
        """Return how large a log ratio must be to be significant at ``alpha`` (two-sided), however many the loads."""
        return stats.t_quantile(1 - alpha / 2, self.freedom) * math.sqrt(self.variance)

    def added_to(self, within: Estimate) -> Estimate:
        """Return a log ratio of two runs with the shift in its error.

        Freedom is after Welch and Satterthwaite, and never more than the runs give: their formula is for middling
        quantiles, and many cases are judged far out in the tails. The noise of the calibration's own loads is in its
        variance, too, and is left there: on the safe side, and never below zero.
        """
        if not math.isfinite(within.error):
            return within
        parts = [(within.error**2, within.freedom), (self.variance, self.freedom)]
        total = sum(variance for variance, _ in parts)
        spread = sum(variance**2 / freedom for variance, freedom in parts if variance > 0)
        freedom = total**2 / spread if spread > 0 else within.freedom
        return Estimate(within.value, math.sqrt(total), min(freedom, self.freedom))


class Calibration(BaseModel):
    """What identical runs on one machine showed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    #: :meth:`Fingerprint.digest` of the machine.
    machine: str
    measured: str
    #: Identical runs that were held against each other.
    runs: int = Field(ge=1)
    #: By case (its key without the arm) and metric: the log of the level in each run.
    cases: dict[str, dict[str, tuple[Annotated[float, Field(ge=-100, le=100)], ...]]]
    #: Likewise, the variance of one run's level that its loads explain (mean over runs); none in older calibrations.
    load_variances: dict[str, dict[str, Annotated[float, Field(ge=0, le=1e4)]]] = {}
    #: Share of the samples that other processes disturbed; much of it makes the shift too large.
    disturbed: float = 0.0

    @model_validator(mode="after")
    def _in_every_run(self) -> Calibration:
        if any(len(levels) != self.runs for case in self.cases.values() for levels in case.values()):
            raise ValueError("a figure for every run is expected")
        return self

    def shift(self, keys: Sequence[str], metric: str) -> Shift | None:
        """Return how the mean level of these cases shifts between runs; None where one of them was not calibrated.

        Their mean is taken run by run: what they share in a run does not average out, and is not assumed to.
        """
        found = [self.cases.get(key, {}).get(metric) for key in keys]
        levels = [one for one in found if one is not None]
        if not levels or len(levels) < len(found):
            return None
        return shift_of(levels, sum(self.load_variances.get(key, {}).get(metric, 0.0) for key in keys))


def shift_of(levels: Sequence[Sequence[float]], load_variances: float = 0.0) -> Shift:
    """Return the shift of the mean of some cases, from the log level of each in every run.

    ``load_variances`` is the sum over cases of the variance of a level that its loads explain.
    """
    means = np.mean(np.asarray(levels, dtype=np.float64), axis=0)
    return Shift(2 * float(means.var(ddof=1)), means.size, loads_variance=2 * load_variances / len(levels) ** 2)


def runs_needed(shift: Shift, gate: float, *, judgements: int, alpha: float, power: float = 0.8) -> int | None:
    """Return how many identical runs a calibration takes for separate runs to be judged at a gate; None: no number.

    Judged means that, with as many loads as it takes, identical software passes and a slowdown of twice the gate is
    called one, each with that power, if the runs of this machine differ as they did in ``shift``.
    """
    deviation = math.sqrt(shift.variance)
    passing, seeing = (stats.t_quantile(chance, math.inf) for chance in ((1 + power) / 2, power))
    for runs in range(MINIMUM_RUNS, MOST_RUNS + 1):
        inside = stats.t_quantile(1 - (1 - COVERAGE) / 2, runs - 1) + passing
        beyond = stats.t_quantile(1 - alpha / (2 * judgements), runs - 1) + seeing
        if inside * deviation <= math.log1p(gate) and beyond * deviation <= math.log1p(2 * gate):
            return runs
    return None


@dataclass(frozen=True)
class Floor:
    """What is known of the shift between runs on one machine."""

    calibration: Calibration | None = None
    #: Why nothing is known, or what was found is not used.
    missing: str = "this machine was never calibrated"

    def shift(self, keys: Sequence[str], metric: str) -> Shift:
        """Return the shift of the mean of these cases (of one case: its own), assumed where no calibration fits."""
        assumed = Shift(2 * ASSUMED_SHIFT**2, assumed=self.missing)
        if self.calibration is None:
            return assumed
        found = self.calibration.shift(keys, metric)
        if found is not None:
            return found
        known = len(self.calibration.cases)
        what = f"the calibration of this machine is of {known} other case{'s' * (known != 1)}"
        if any(key in self.calibration.cases for key in keys):
            what = f"the calibration of this machine has no {metric} of every case"
        return replace(assumed, assumed=what)


def save_calibration(found: Calibration) -> Path:
    """Keep a calibration for its machine, replacing an earlier one; return the file."""
    path = _path(found.machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, found.model_dump_json(indent=1) + "\n")
    return path


def read_floor(fingerprint: Fingerprint | None) -> Floor:
    """Return what was kept for a machine; a calibration that does not fit it is named and not used."""
    if fingerprint is None:
        return Floor(missing="the machine is not recorded, so no calibration fits it")
    names = fingerprint.digests()
    path = next((_path(name) for name in names if _path(name).is_file()), _path(names[0]))
    if not path.is_file():
        others = any(path.parent.glob("*.json")) if path.parent.is_dir() else False
        return Floor(missing="the calibrations kept here are of another machine") if others else Floor()
    try:
        found = Calibration.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        return Floor(missing="the calibration of this machine is damaged or of another version of slmbench")
    if found.machine not in names:
        return Floor(missing="the calibrations kept here are of another machine")
    if found.schema_version != SCHEMA_VERSION:
        return Floor(missing="the calibration of this machine is of another version of slmbench")
    if found.runs < MINIMUM_RUNS:
        runs = "one run" if found.runs == 1 else f"{found.runs} runs"
        return Floor(missing=f"the calibration of this machine is from {runs} (at least {MINIMUM_RUNS} are needed)")
    return Floor(found)


def _path(machine: str) -> Path:
    return cache_dir() / "noise" / f"{machine}.json"
