"""Recorded noise: pairs of loads of identical cases that lived side by side, and ways to draw checks from them.

    slmbench run --pair mu-tiny,dec-tiny --backend openvino --input-tokens 64 --output-tokens 16 \\
        --arm base=$(which python) --arm new=$(which python) --interval-target 0.1 --budget 260 --out noise/1

records it: two arms with the same interpreter. Several such runs, one after the other, hold the machine's drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmbench.analysis import stats
from slmbench.analysis.metrics import Evidence, log_ratio, side_of
from slmbench.analysis.verdicts import verdict_of
from slmbench.records.sample_arrays import read_columns

METRICS = ("ttft", "tpot")
#: A quiet machine: how loads of one model differ (CV over 12 restarts of a 135M model), and samples of one load.
BETWEEN, WITHIN = 0.017, 0.008
Values = np.ndarray


@dataclass(frozen=True)
class Recording:
    """Pairs of loads in the order of time, of one case and metric; each ``(rounds of one arm, of the other)``."""

    case: str
    metric: str
    pairs: list[tuple[Values, Values]]


@dataclass(frozen=True)
class Check:
    """One drawn check: for every case and metric the loads of two identical sides."""

    base: list[list[Values]]
    new: list[list[Values]]
    #: Whether the sides' loads are neighbours in time.
    interleaved: bool


def read_recordings(folders: Sequence[Path]) -> list[Recording]:
    """Read runs with two arms each; the pairs of a case follow one another from run to run."""
    found: dict[tuple[str, str], list[tuple[Values, Values]]] = {}
    for folder in folders:
        run = read_columns(folder, keep_tokens=False)
        base, new = side_of(run, "base", "base"), side_of(run, "new", "new")
        for key, case in base.cases.items():
            for metric in METRICS:
                found.setdefault((key, metric), []).extend(
                    _pairs(case.evidence[metric], new.cases[key].evidence[metric])
                )
    return [Recording(case, metric, pairs) for (case, metric), pairs in found.items()]


def _pairs(base: Evidence, new: Evidence) -> Iterator[tuple[Values, Values]]:
    assert base.rounds is not None
    assert new.rounds is not None
    for (_, old_rounds, old), (_, young_rounds, young) in zip(base.rounds, new.rounds, strict=False):
        _, left, right = np.intersect1d(old_rounds, young_rounds, return_indices=True)
        if left.size:
            yield old[left], young[right]


def simulated(loads: int, rng: np.random.Generator) -> Check:
    """Draw one case and metric on a quiet machine, two runs apart."""
    sides = [[[np.exp(rng.normal(0, BETWEEN) + rng.normal(0, WITHIN, 5)) for _ in range(loads)]] for _ in range(2)]
    return Check(sides[0], sides[1], interleaved=False)


def draw_interleaved(recordings: Sequence[Recording], loads: int, rng: np.random.Generator) -> Check:
    """Draw a stretch of neighbouring pairs, each way round at random: two arms of one run."""
    base: list[list[Values]] = []
    new: list[list[Values]] = []
    start = rng.random()
    for recording in recordings:
        pairs = _stretch(recording.pairs, start, loads)
        swapped = rng.integers(0, 2, len(pairs))
        base.append([pair[swap] for pair, swap in zip(pairs, swapped, strict=True)])
        new.append([pair[1 - swap] for pair, swap in zip(pairs, swapped, strict=True)])
    return Check(base, new, interleaved=True)


def draw_apart(recordings: Sequence[Recording], loads: int, rng: np.random.Generator) -> Check:
    """Draw two stretches from different times: two runs."""
    first = rng.random()
    second = (first + rng.uniform(0.25, 0.75)) % 1
    sides = [
        [[pair[int(rng.integers(0, 2))] for pair in _stretch(r.pairs, at, loads)] for r in recordings]
        for at in (first, second)
    ]
    return Check(sides[0], sides[1], interleaved=False)


def _stretch(pairs: Sequence[tuple[Values, Values]], start: float, loads: int) -> list[tuple[Values, Values]]:
    at = int(start * len(pairs))
    return [pairs[(at + step) % len(pairs)] for step in range(loads)]


def estimates(check: Check, slowdown: float = 0.0) -> list[stats.Estimate]:
    """Return the log ratio of every case and metric, the new side slowed by that share."""
    return [
        log_ratio(
            _evidence(base), _evidence([values * (1 + slowdown) for values in new]), interleaved=check.interleaved
        )
        for base, new in zip(check.base, check.new, strict=True)
    ]


def verdicts(
    check: Check, gate: float, *, slowdown: float = 0.0, alpha: float = 0.01, floors: Sequence[float] | None = None
) -> list[str]:
    """Return slmbench's verdict on every case and metric of a check."""
    found = estimates(check, slowdown)
    adjusted = stats.holm([estimate.p_value() for estimate in found])
    return [
        verdict_of(estimate, p, gate, floor, alpha)[0]
        for estimate, p, floor in zip(found, adjusted, floors or [0.0] * len(found), strict=True)
    ]


def _evidence(loads: list[Values]) -> Evidence:
    logs, inner = stats.load_levels(loads)
    counts = np.array([values.size for values in loads])
    rounds = tuple((number, np.arange(values.size) + 1000 * number, values) for number, values in enumerate(loads))
    return Evidence(logs, inner, counts, rounds)


def mean_of_five(check: Check, gate: float, slowdown: float = 0.0) -> list[bool]:
    """Return who alarms by the rule "mean of five runs, one load, a fixed percentage"."""
    return [
        float(np.mean(new[0][:5])) * (1 + slowdown) > (1 + gate) * float(np.mean(base[0][:5]))
        for base, new in zip(check.base, check.new, strict=True)
    ]


def mann_whitney(check: Check, slowdown: float = 0.0, alpha: float = 0.05) -> list[bool]:
    """Return who alarms by the rule "Mann-Whitney on all samples, p below 5 %, slower"."""
    from scipy.stats import mannwhitneyu

    return [
        bool(
            mannwhitneyu(np.concatenate(new) * (1 + slowdown), np.concatenate(base), alternative="two-sided").pvalue
            < alpha
        )
        and float(np.median(np.concatenate(new))) * (1 + slowdown) > float(np.median(np.concatenate(base)))
        for base, new in zip(check.base, check.new, strict=True)
    ]


def noise_floors(recordings: Sequence[Recording], loads: int, rng: np.random.Generator) -> list[float]:
    """Return per case and metric how far identical runs lie apart: what `slmbench calibrate` would find."""
    apart = np.array([[abs(e.value) for e in estimates(draw_apart(recordings, loads, rng))] for _ in range(200)])
    return [float(np.expm1(value)) for value in np.quantile(apart, 0.95, axis=0)]


def halves(recordings: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Split recordings by parity of blocks of ten loads: one part to calibrate with, one to check with."""

    def part(parity: int) -> list[Recording]:
        return [
            Recording(r.case, r.metric, [pair for i, pair in enumerate(r.pairs) if i // 10 % 2 == parity])
            for r in recordings
        ]

    return part(0), part(1)
