"""Identical runs, to learn how far such runs lie apart on this machine: measured now, or given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slmbench.analysis.metrics import Side
from slmbench.analysis.noise import MINIMUM_RUNS, Calibration, read_floor, save_calibration
from slmbench.analysis.sides import distinct, read_side
from slmbench.analysis.verdicts import fingerprint_of
from slmbench.errors import BadInputError, CannotRunError, NotComparableError, amount, one_line
from slmbench.plan.request import RunRequest
from slmbench.running.more_samples import request_of
from slmbench.running.runner import execute

SUITE = "smoke"
DEFAULT_RUNS = 6
#: Samples of a case in one run of the smoke suite: some loads of some rounds each.
SAMPLES = 15

Say = Callable[[str], None]


def calibrate(
    *,
    runs: int = DEFAULT_RUNS,
    samples: int = SAMPLES,
    backends: Sequence[str] = (),
    like: str | None = None,
    say: Say | None = None,
) -> Calibration:
    """Measure the same ``runs`` times and keep each run's levels for this machine.

    What is measured is what the baseline or run ``like`` measured: a calibration holds for its cases alone. Without it,
    the smoke suite: quick, and a first idea of the machine.

    Raises:
        BadInputError: fewer than three runs, an unknown backend, or ``like`` does not say what was measured.
        CannotRunError: a case failed, so there is nothing to compare.
    """
    if runs < MINIMUM_RUNS:
        raise BadInputError(f"{runs} runs say too little about how runs differ; {MINIMUM_RUNS} or more are needed")
    if like is not None and backends:
        raise BadInputError("--backend and --like: the backends are those of the run that --like names")
    # One seed for all: other prompts would be another workload.
    request = RunRequest(suite=SUITE, backends=tuple(backends), exporter="slmbench", repeat=samples, seed=0)
    if like is not None:
        request = request_of(like)
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            if say is not None:
                say(f"identical run {number + 1} of {runs}")
            out = Path(folder) / f"run-{number}"
            execute(request.model_copy(update={"out": out, "arms": ()}))
            sides.append(read_side(str(out)))
    for side in sides:
        for key, case in side.cases.items():
            if case.failure:
                raise CannotRunError(f"{key}: {case.failure}")
    return _kept(sides, say)


def calibrate_from(names: Sequence[str], say: Say | None = None) -> Calibration:
    """Keep the levels of identical runs that were measured before, for the machine they ran on.

    ``say`` gets what is left out, and which calibration is replaced.

    Raises:
        BadInputError: fewer than three, one of them twice, or not runs.
        NotComparableError: they are of several machines, or have no case in common.
    """
    sides = distinct([read_side(name) for name in names])
    if len({side.run_id for side in sides}) < max(MINIMUM_RUNS, len(sides)):
        raise BadInputError(f"{len(sides)} runs were given; {MINIMUM_RUNS} or more different ones are needed")
    return _kept(sides, say)


def _kept(sides: Sequence[Side], say: Say | None) -> Calibration:
    """Keep what is in every run, loaded twice or more, for the machine they ran on.

    Raises:
        NotComparableError: nothing is, or they ran on several machines.
    """
    machines = []
    for side in sides:
        fingerprint = fingerprint_of(side)
        if fingerprint is None:
            raise NotComparableError(f"{side.name}: the machine it ran on is not recorded")
        machines.append(fingerprint)
    for side, machine in zip(sides, machines, strict=True):
        if machine.digest() not in machines[0].digests():
            raise NotComparableError(f"{sides[0].name} and {side.name} ran on different machines")
    lacking = _not_in_every_run(sides)
    cases: dict[str, dict[str, tuple[float, ...]]] = {}
    variances: dict[str, dict[str, float]] = {}
    for key in sides[0].cases:
        found = [side.cases[key] for side in sides if key in side.cases and not side.cases[key].failure]
        for metric in found[0].evidence if len(found) == len(sides) else ():
            figures = [case.evidence[metric] for case in found if metric in case.evidence]
            if len(figures) == len(sides) and all(one.logs.size >= 2 for one in figures):
                cases.setdefault(key, {})[metric] = tuple(one.estimate.value for one in figures)
                errors = [one.estimate.error for one in figures]
                variances.setdefault(key, {})[metric] = sum(error**2 for error in errors) / len(errors)
    if not cases:
        if lacking:
            raise NotComparableError(f"the runs have no case in common that they all measured: {lacking[0]}")
        raise NotComparableError("no metric of a case was measured with two loads or more in every run")
    disturbed = [side.cases[key].disturbed for side in sides for key in cases]
    calibration = Calibration(
        machine=machines[0].digest(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=len(sides),
        cases=cases,
        load_variances=variances,
        disturbed=sum(disturbed) / len(disturbed),
    )
    earlier = read_floor(machines[0]).calibration
    save_calibration(calibration)
    if say is not None:
        for line in lacking:
            say(one_line(f"left out: {line}"))
        if earlier:
            cases_then = amount(len(earlier.cases), "case")
            say(f"replaced the calibration of {earlier.measured} ({earlier.runs} runs of {cases_then})")
    return calibration


def _not_in_every_run(sides: Sequence[Side]) -> list[str]:
    """Return a line for each case that not every run measured: where it is missing or failed."""
    lines = []
    for key in dict.fromkeys(key for side in sides for key in side.cases):
        having = next(side for side in sides if key in side.cases)
        for side in sides:
            if key not in side.cases:
                lines.append(f"{key} is in {having.name} and not in {side.name}")
                break
            if failure := side.cases[key].failure:
                lines.append(f"{key} failed in {side.name}: {failure}")
                break
    return lines
