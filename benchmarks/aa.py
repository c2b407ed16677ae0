"""A/A: one case under two names. An honest interval of the ratio covers 1; one over samples of one load does not.

    python benchmarks/aa.py [--model mu-tiny] [--backend openvino] [--runs 20] [--loads 12]

Two designs, in turn, with the same number of samples:
- slmbench's: several loads of each name, the interval over loads;
- the usual one: each name loaded once and sampled many times, the interval over samples.
Wanted of the first: at least 18 of 20 cover 1, and a half-width of at most 3 %.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _case import planned_case

from slmbench.analysis import stats
from slmbench.measure.stop_rule import Brief, brief, by_load, counted
from slmbench.records.schema import SAMPLES_NAME, SampleRecord, read_samples
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase

METRICS = ("ttft", "tpot")


def samples_of(plan: list[PlannedCase], settings: MeasureSettings) -> list[list[Brief]]:
    """Measure; return each name's samples that count, in the order of their rounds."""
    with tempfile.TemporaryDirectory() as folder:
        measure(plan, Path(folder), settings)
        taken = [r for r in read_samples(Path(folder) / SAMPLES_NAME, []) if isinstance(r, SampleRecord)]
    return [counted(brief(sample) for sample in taken if sample.case == planned.key) for planned in plan]


def over_loads(names: list[list[Brief]], metric: str) -> stats.Interval:
    """Return the ratio's interval as slmbench judges it: round by round, loads the unit."""
    base, new = (by_load(samples, metric) for samples in names)
    return stats.level([young / old for old, young in zip(base, new, strict=True)]).interval()


def over_samples(names: list[list[Brief]], metric: str) -> stats.Interval:
    """Return the ratio's interval with every sample for a load of its own, as if samples were independent."""
    base, new = (np.concatenate(by_load(samples, metric))[:, None] for samples in names)
    return stats.level(list(new / base)).interval()


def covers(interval: stats.Interval) -> bool:
    return interval.low <= 1 <= interval.high


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mu-tiny")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--loads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    shape = {"input_tokens": given.input_tokens, "output_tokens": given.output_tokens}
    plan = [planned_case(given.model, given.backend, arm=arm, **shape) for arm in ("a", "b")]
    # Both designs take all the samples they are given; disturbed ones count as they are.
    several = MeasureSettings(
        min_loads=given.loads, max_loads=given.loads, rounds=given.rounds, budget_s=3600.0, foreign_load_bound=100.0
    )
    one = replace(several, min_loads=1, max_loads=1, rounds=given.loads * given.rounds)
    places = [(design, metric) for design in ("loads", "samples") for metric in METRICS]
    covered: dict[tuple[str, str], list[bool]] = {place: [] for place in places}
    widths: dict[tuple[str, str], list[float]] = {place: [] for place in places}
    seconds = []
    for run in range(given.runs):
        begin = time.monotonic()
        by_design = {"loads": samples_of(plan, replace(several, seed=run))}
        seconds.append(time.monotonic() - begin)
        by_design["samples"] = samples_of(plan, replace(one, seed=run))
        for design, metric in places:
            interval = (over_loads if design == "loads" else over_samples)(by_design[design], metric)
            covered[design, metric].append(covers(interval))
            widths[design, metric].append(stats.relative_half_width(interval))
        told = []
        for place in places:
            verdict = "covers" if covered[place][-1] else "MISSES"
            told.append(f"{' '.join(place)} {verdict} ±{widths[place][-1]:.1%}")
        print(f"run {run + 1}: {'  '.join(told)}", flush=True)
    print(
        f"{given.model} on {given.backend}, fp32, {given.input_tokens} in, {given.output_tokens} out; {given.runs} runs"
    )
    print(f"over loads: {given.loads} loads of {given.rounds}, {np.median(seconds):.0f} s a run")
    for design, metric in places:
        hits, width = sum(covered[design, metric]), np.median(widths[design, metric])
        print(f"  over {design:8} {metric}: {hits} of {given.runs} cover 1, half-width {width:.2%} (median)")


if __name__ == "__main__":
    main()
