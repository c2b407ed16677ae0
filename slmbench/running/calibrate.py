"""A/A: the same small cases in run after run, to learn how far identical runs lie apart on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slmbench.analysis.metrics import side_of
from slmbench.errors import BadInputError, CannotRunError
from slmbench.machine.fingerprint import collect
from slmbench.machine.noise import NoiseFloor, floor_of, save_noise_floor
from slmbench.plan.request import RunRequest
from slmbench.records.sample_arrays import read_columns
from slmbench.running.runner import execute

SUITE = "smoke"
DEFAULT_RUNS = 6
#: Samples of a case in one run: some loads of some rounds each.
SAMPLES = 15

Say = Callable[[str], None]


def calibrate(
    *, runs: int = DEFAULT_RUNS, samples: int = SAMPLES, backends: Sequence[str] = (), say: Say | None = None
) -> NoiseFloor:
    """Run the smoke suite ``runs`` times and keep the spread of each metric between runs for this machine.

    The models are tiny, so that it takes minutes: what disturbs moves their figures by more than those of larger
    ones, and the floor is on the safe side.

    Raises:
        BadInputError: fewer than three runs, or an unknown backend.
        CannotRunError: a case failed, so there is nothing to compare.
    """
    if runs < 3:
        raise BadInputError(f"{runs} runs tell nothing of a spread; 3 or more are needed")
    levels: dict[str, dict[str, list[float]]] = {}
    disturbed: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            if say is not None:
                say(f"identical run {number + 1} of {runs}")
            out = Path(folder) / f"run-{number}"
            # One seed for all: other prompts would be another workload.
            execute(
                RunRequest(suite=SUITE, backends=tuple(backends), exporter="slmbench", repeat=samples, seed=0, out=out)
            )
            disturbed += _add_levels(levels, out)
    found = floor_of(levels)
    if not found:
        raise CannotRunError("no metric was measured in every run; the floor cannot be told")
    machine = collect()
    floor = NoiseFloor(
        machine=machine.digest(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        runs=runs,
        cases=tuple(sorted(levels)),
        metrics=found,
        disturbed=sum(disturbed) / len(disturbed),
    )
    save_noise_floor(floor)
    return floor


def _add_levels(levels: dict[str, dict[str, list[float]]], folder: Path) -> list[float]:
    """Add a run's figures; return for each of its cases the share of samples that others disturbed."""
    cases = side_of(read_columns(folder), folder.name).cases
    for key, case in cases.items():
        if case.failure:
            raise CannotRunError(f"{key}: {case.failure}")
        for metric, evidence in case.evidence.items():
            levels.setdefault(key, {}).setdefault(metric, []).append(evidence.estimate.value)
    return [case.disturbed for case in cases.values()]
