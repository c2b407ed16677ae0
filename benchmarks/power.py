"""Power: how often a true slowdown of 1.5 times the gate is called "regressed", and by whom.

    python benchmarks/power.py noise/1 noise/2 noise/3      recorded noise (see _noise.py)
    python benchmarks/power.py                              a quiet machine, simulated: loads differ by CV 1.7 %

Wanted: at least 95 % with the default budget at the default gate of 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _noise import Check, draw_interleaved, mann_whitney, mean_of_five, read_recordings, simulated, verdicts

Draw = Callable[[int, np.random.Generator], Check]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--loads", type=int, nargs="+", default=[5, 10, 20, 30])
    options = parser.parse_args()
    draw: Draw = simulated
    if options.runs:
        recordings = read_recordings(options.runs)

        def draw(loads: int, rng: np.random.Generator) -> Check:
            return draw_interleaved(recordings, loads, rng)

    print("| loads | gate | slowdown | regressed | inconclusive | passed | mean of 5 misses | Mann-Whitney misses |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for gate in (0.05, 0.03, 0.02):
        for loads in options.loads:
            rng = np.random.default_rng(loads)
            rows = []
            for _ in range(options.checks):
                check = draw(loads, rng)
                slowdown = 1.5 * gate
                mine = verdicts(check, gate, slowdown=slowdown)
                five, whitney = mean_of_five(check, gate, slowdown), mann_whitney(check, slowdown)
                rows += [
                    (v == "regressed", v == "inconclusive", v in ("unchanged", "improved"), not a, not b)
                    for v, a, b in zip(mine, five, whitney, strict=True)
                ]
            rates = " | ".join(f"{rate:.1%}" for rate in np.mean(rows, axis=0))
            print(f"| {loads} | {gate:.0%} | {1.5 * gate:.1%} | {rates} |")


if __name__ == "__main__":
    main()
