"""False alarms: how often a check of identical runs says "regressed", by slmbench's rule and by others'.

    python benchmarks/false_alarms.py noise/1 noise/2 noise/3 [--checks 1000] [--loads 10]

``noise/N`` are recorded on the machine in question (see _noise.py). One check judges every case and metric at once.
Wanted: at most 1 % of the checks regress, at a gate of 5 % and of 2 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _noise import (
    draw_apart,
    draw_interleaved,
    halves,
    mann_whitney,
    mean_of_five,
    noise_floors,
    read_recordings,
    verdicts,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recordings = read_recordings(options.runs)
    for recording in recordings:
        levels = [np.log(np.median(pair[0])) for pair in recording.pairs]
        print(f"{recording.case} {recording.metric}: {len(levels)} pairs of loads, CV {np.std(levels):.1%}")
    calibration, tested = halves(recordings)
    designs = {"arms of one run": (draw_interleaved, recordings, None)}
    if min(len(recording.pairs) for recording in tested) > 2 * options.loads:
        floors = noise_floors(calibration, options.loads, np.random.default_rng(options.seed))
        print("noise floors: " + ", ".join(f"{floor:.1%}" for floor in floors))
        designs["runs at different times"] = (draw_apart, tested, floors)
    print("\n| design | gate | regressed | unchanged | mean of 5, fixed % | Mann-Whitney |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (draw, source, floor) in designs.items():
        for gate in (0.05, 0.02):
            rng = np.random.default_rng(options.seed)
            found = []
            for _ in range(options.checks):
                check = draw(source, options.loads, rng)
                mine = verdicts(check, gate, floors=floor)
                found.append(
                    (
                        "regressed" in mine,
                        all(verdict == "unchanged" for verdict in mine),
                        any(mean_of_five(check, gate)),
                        any(mann_whitney(check)),
                    )
                )
            rates = " | ".join(f"{rate:.1%}" for rate in np.mean(found, axis=0))
            print(f"| {name} | {gate:.0%} | {rates} |")


if __name__ == "__main__":
    main()
