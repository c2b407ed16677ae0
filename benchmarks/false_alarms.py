"""False alarms: how often a check of identical runs says "regressed", by slmbench's rule and by others'.

    python benchmarks/false_alarms.py noise/1 noise/2 noise/3 [--checks 1000] [--loads 10]
    python benchmarks/false_alarms.py                                   a quiet machine, simulated

``noise/N`` are recorded on the machine in question (see _noise.py). One check judges every case and metric at once.
Wanted: at most 1 % of the checks regress, at a gate of 5 % and of 2 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _noise import (
    Check,
    draw_apart,
    draw_interleaved,
    halves,
    mann_whitney,
    mean_of_five,
    noise_floors,
    read_recordings,
    simulated,
    verdicts,
)

Draw = Callable[[np.random.Generator], Check]


def designs_of(runs: list[Path], loads: int, seed: int) -> dict[str, tuple[Draw, list[float] | None]]:
    """Return ways to draw a check of identical sides, each with the noise floors that apply."""
    if not runs:
        return {"quiet machine, simulated": (lambda rng: simulated(loads, rng), None)}
    recordings = read_recordings(runs)
    for recording in recordings:
        levels = [np.log(np.median(pair[0])) for pair in recording.pairs]
        print(f"{recording.case} {recording.metric}: {len(levels)} pairs of loads, CV {np.std(levels):.1%}")
    designs: dict[str, tuple[Draw, list[float] | None]] = {
        "arms of one run": (lambda rng: draw_interleaved(recordings, loads, rng), None)
    }
    calibration, tested = halves(recordings)
    if min(len(recording.pairs) for recording in tested) > 2 * loads:
        floors = noise_floors(calibration, loads, np.random.default_rng(seed))
        print("noise floors: " + ", ".join(f"{floor:.1%}" for floor in floors))
        designs["runs at different times"] = (lambda rng: draw_apart(tested, loads, rng), floors)
    return designs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    designs = designs_of(options.runs, options.loads, options.seed)
    print("\n| design | gate | regressed | unchanged | mean of 5, fixed % | Mann-Whitney |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (draw, floors) in designs.items():
        for gate in (0.05, 0.02):
            rng = np.random.default_rng(options.seed)
            rates = np.mean([_outcome(draw(rng), gate, floors) for _ in range(options.checks)], axis=0)
            print(f"| {name} | {gate:.0%} | " + " | ".join(f"{rate:.1%}" for rate in rates) + " |")


def _outcome(check: Check, gate: float, floors: list[float] | None) -> tuple[bool, bool, bool, bool]:
    mine = verdicts(check, gate, floors=floors)
    return (
        "regressed" in mine,
        all(verdict == "unchanged" for verdict in mine),
        any(mean_of_five(check, gate)),
        any(mann_whitney(check)),
    )


if __name__ == "__main__":
    main()
