"""The load lottery: how much one model differs from load to load, against how much it varies within one.

    python benchmarks/load_lottery.py [--model dec-tiny] [--backend openvino] [--loads 12] [--rounds 20]

Prints each load's median, the spread of those medians, the spread inside a load, and the 95 % interval from one
load's samples next to the one over loads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _case import planned_case

from slmbench.analysis import stats
from slmbench.measure.stop_rule import brief, by_load, counted
from slmbench.records.schema import SAMPLES_NAME, SampleRecord, read_samples
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings


def report(metric: str, loads: list[stats.Floats]) -> None:
    medians = np.array([np.median(values) for values in loads])
    inside = np.mean([np.std(np.log(values), ddof=1) for values in loads])
    alone = [stats.relative_half_width(stats.median_interval(values)) for values in loads]
    over = stats.hierarchical_interval(loads)
    print(f"{metric}: medians by load, ms: {' '.join(f'{m / 1e6:.3f}' for m in medians)}")
    print(f"  spread of the medians (CV)                   {np.std(np.log(medians), ddof=1):.2%}")
    print(f"  largest over least                           {medians.max() / medians.min():.3f}")
    print(f"  spread of samples inside a load (CV)         {inside:.2%}")
    print(f"  half-width from one load's samples (median)  {np.median(alone):.2%}")
    print(f"  half-width over loads                        {stats.relative_half_width(over):.2%}")
    outside = sum(not over.low <= m <= over.high for m in medians)
    print(f"  loads whose own median is outside the interval over loads: {outside} of {len(loads)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="dec-tiny")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--loads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    planned = planned_case(
        given.model, given.backend, input_tokens=given.input_tokens, output_tokens=given.output_tokens
    )
    settings = MeasureSettings(min_loads=given.loads, max_loads=given.loads, rounds=given.rounds, budget_s=3600.0)
    with tempfile.TemporaryDirectory() as folder:
        measure([planned], Path(folder), settings)
        taken = [r for r in read_samples(Path(folder) / SAMPLES_NAME, []) if isinstance(r, SampleRecord)]
    samples = counted(map(brief, taken))
    disturbed = sum(sample.disturbed for sample in samples)
    print(f"{planned.key}: {given.loads} loads, {len(samples)} samples, {disturbed} disturbed by foreign activity")
    for metric in ("ttft", "tpot"):
        report(metric, by_load(samples, metric))


if __name__ == "__main__":
    main()
