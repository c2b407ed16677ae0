"""Identical runs, to learn how far such runs lie apart on this machine: measured now, or given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slmbench.analysis.metrics import Side
from slmbench.analysis.noise import MINIMUM_RUNS, Calibration, read_floor, save_calibration
from slmbench.analysis.sides import distinct, read_side
from slmbench.analysis.verdicts import fingerprint_of, machine_differences
from slmbench.errors import BadInputError, CannotRunError, NotComparableError, amount, one_line
from slmbench.machine.fingerprint import ENGINE_FIELDS, Fingerprint
from slmbench.plan.request import RunRequest
from slmbench.running.more_samples import of_run, request_of
from slmbench.running.runner import execute

DEFAULT_RUNS = 6

Say = Callable[[str], None]


def calibrate(
    *,
    runs: int = DEFAULT_RUNS,
    backends: Sequence[str] = (),
    like: str | None = None,
    say: Say | None = None,
) -> Calibration:
    """Measure the same ``runs`` times and keep each run's levels for this machine.

    What is measured is what the baseline or run ``like`` measured: a calibration holds for its cases alone. Without it,
    what `slmbench run` measures with nothing else asked.

    Raises:
        BadInputError: fewer than three runs, an unknown backend, or ``like`` does not say what was measured.
        CannotRunError: a case failed, so there is nothing to compare.
    """
    if runs < MINIMUM_RUNS:
        raise BadInputError(f"{runs} runs say too little about how runs differ; {MINIMUM_RUNS} or more are needed")
    if like is not None and backends:
        raise BadInputError("--backend and --like: the backends are those of the run that --like names")
    # Its seed is that of every run: other prompts would be another workload.
    request = request_of(like) if like is not None else RunRequest(backends=tuple(backends))
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            if say is not None:
                say(f"identical run {number + 1} of {runs}")
            out = Path(folder) / f"run-{number}"
            with of_run(f"identical run {number + 1}"):
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
    machine = _machine_of(sides)
    lacking = _not_in_every_run(sides)
    cases: dict[str, dict[str, tuple[float, ...]]] = {}
    variances: dict[str, dict[str, float]] = {}
    for key in [key for key in sides[0].cases if key not in lacking]:
        found = [side.cases[key] for side in sides]
        for metric in found[0].evidence:
            figures = [case.evidence[metric] for case in found if metric in case.evidence]
            if len(figures) == len(sides) and all(one.logs.size >= 2 for one in figures):
                cases.setdefault(key, {})[metric] = tuple(one.estimate.value for one in figures)
                errors = [one.estimate.error for one in figures]
                variances.setdefault(key, {})[metric] = sum(error**2 for error in errors) / len(errors)
    if not cases:
        if lacking:
            raise NotComparableError(
                f"the runs have no case in common that they all measured: {next(iter(lacking.values()))}"
            )
        raise NotComparableError("no metric of a case was measured with two loads or more in every run")
    disturbed = [side.cases[key].disturbed for side in sides for key in cases]
    calibration = Calibration(
        machine=machine.digest(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=len(sides),
        cases=cases,
        load_variances=variances,
        disturbed=sum(disturbed) / len(disturbed),
    )
    earlier = read_floor(machine).calibration
    save_calibration(calibration)
    if say is not None:
        for line in lacking.values():
            say(one_line(f"left out: {line}"))
        if earlier:
            cases_then = amount(len(earlier.cases), "case")
            say(f"replaced the calibration of {earlier.measured} ({earlier.runs} runs of {cases_then})")
    return calibration


def _machine_of(sides: Sequence[Side]) -> Fingerprint:
    """Return the machine that all runs were measured on.

    Raises:
        NotComparableError: there is none: they ran on several machines, or with several versions of an engine.
    """
    machines = []
    for side in sides:
        machine = fingerprint_of(side)
        if machine is None:
            raise NotComparableError(f"{side.name}: the machine it ran on is not recorded")
        found = machine_differences(sides[0], side, list(side.cases.values()))
        if hard := [str(difference).removeprefix(ENGINE_FIELDS) for difference in found if difference.hard]:
            raise NotComparableError(f"{sides[0].name} and {side.name} are not identical runs: {'; '.join(hard)}")
        machines.append(machine)
    return machines[0]


def _not_in_every_run(sides: Sequence[Side]) -> dict[str, str]:
    """Return the cases that not every run measured, and where: missing, failed, or another model."""
    lines = {}
    for key in dict.fromkeys(key for side in sides for key in side.cases):
        having = next(side for side in sides if key in side.cases)
        for side in sides:
            if key not in side.cases:
                lines[key] = f"{key} is in {having.name} and not in {side.name}"
            elif having.cases[key].model.digest != side.cases[key].model.digest:
                lines[key] = f"{key} is another model in {side.name} than in {having.name} (other config or weights)"
            elif failure := side.cases[key].failure:
                lines[key] = f"{key} failed in {side.name}: {failure}"
            if key in lines:
                break
    return lines
