"""What a fleet costs a figure: one case through a one-machine fleet and locally, turn about.

    python benchmarks/fleet_overhead.py [--model dec-small] [--minutes 7.5] [--turns 40]

A scheduler and a worker run as processes on loopback. A turn is a short run of a few loads, by `slmbench run --fleet`
or by plain `slmbench run` with the same settings; of each pair of turns the order is drawn. While the local one
measures, scheduler and worker are suspended: it has the machine to itself. The ratio is taken in every pair of turns.
Wanted: 1.00, with a 95 % half-width of at most 2 %, to the first token and per token.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slmbench import stats
from slmbench.columns import read_columns
from slmbench.evidence import side_of
from slmbench.fleet.sides import run_folders

METRICS = ("ttft", "tpot")
MACHINE = "here"
SLMBENCH = (sys.executable, "-m", "slmbench")
WANTED_HALF_WIDTH = 0.02


@dataclass
class Turns:
    """The level of every turn in s: by metric, one a pair."""

    local: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})
    fleet: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})

    def ratio(self, metric: str) -> stats.Interval:
        """Return fleet over local with its 95 % interval: a pair of turns is what varies."""
        return stats.paired_ratio([[x] for x in self.local[metric]], [[x] for x in self.fleet[metric]]).interval()


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[psutil.Popen, str]]:
    """Yield a scheduler or worker as a process, and the line it began with."""
    process = psutil.Popen([*SLMBENCH, "fleet", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"fleet {arguments[0]} ended with {process.wait()}")
        yield process, line
    finally:
        # A suspended process would hear of its end only when it goes on.
        process.resume()
        process.terminate()
        process.wait()


def measure(out: Path, arguments: Sequence[str], address: str | None) -> dict[str, float]:
    """Measure one turn; return the level of each metric in s."""
    fleet = ["--fleet", address] if address else []
    command = [*SLMBENCH, "run", *arguments, *fleet, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    (folder,) = run_folders(out, MACHINE) if address else [out]
    (case,) = side_of(read_columns(folder, keep_tokens=False), "turn").cases.values()
    return {metric: math.exp(case.evidence[metric].estimate.value) for metric in METRICS}


def take_turns(folder: Path, arguments: Sequence[str], most: int, end: float) -> Turns:
    """Take pairs of turns until there are enough or the time is up."""
    turns, source = Turns(), random.Random(0)
    with (
        serving("scheduler", "--port", "0") as (scheduler, said),
        serving("worker", "--scheduler", said.split()[-1], "--name", MACHINE) as (worker, _),
    ):
        address, longest = said.split()[-1], 0.0
        # Exports, limits and caches are in place after one of each; neither counts.
        measure(folder / "first", arguments, None)
        measure(folder / "first-fleet", arguments, address)
        for pair in range(most):
            begin = time.monotonic()
            if pair >= 2 and begin + longest > end:
                break
            for through_fleet in source.sample([False, True], 2):
                for process in (scheduler, worker):
                    process.resume() if through_fleet else process.suspend()
                out = folder / f"{pair}-{'fleet' if through_fleet else 'local'}"
                found = measure(out, arguments, address if through_fleet else None)
                for metric, seconds in found.items():
                    (turns.fleet if through_fleet else turns.local)[metric].append(seconds)
            for process in (scheduler, worker):
                process.resume()
            longest = max(longest, time.monotonic() - begin)
            told = "  ".join(f"{m} {turns.fleet[m][-1] / turns.local[m][-1]:.3f}" for m in METRICS)
            print(f"pair {pair + 1}: fleet / local  {told}", flush=True)
    return turns


def main() -> None:
    """Take the turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dec-small")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=12, help="samples a turn; a load has three")
    parser.add_argument("--turns", type=int, default=40, help="pairs of turns at most")
    parser.add_argument("--minutes", type=float, default=7.5, help="no pair begins that would end later")
    given = parser.parse_args()
    lengths = ["--input-tokens", str(given.input_tokens), "--output-tokens", str(given.output_tokens)]
    arguments = ["--model", given.model, "--backend", given.backend, *lengths, "--repeat", str(given.repeat)]
    with tempfile.TemporaryDirectory() as folder:
        turns = take_turns(Path(folder), arguments, given.turns, time.monotonic() + given.minutes * 60)
    count = len(turns.local["ttft"])
    print(
        f"{given.model} on {given.backend}, {given.input_tokens} in, {given.output_tokens} out; {count} pairs of turns"
    )
    for metric in METRICS:
        found = turns.ratio(metric)
        width = stats.relative_half_width(found)
        reached = "reached" if width <= WANTED_HALF_WIDTH and found.low <= 1 <= found.high else "NOT REACHED"
        print(f"  {metric}: {found.mid:.4f} [{found.low:.4f}, {found.high:.4f}], half-width {width:.2%}: {reached}")


if __name__ == "__main__":
    main()
