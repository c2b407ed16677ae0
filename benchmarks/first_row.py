"""How soon the default run shows something, and how narrow its intervals are.

    python benchmarks/first_row.py [--quick] [--out FOLDER]

Seconds from the first opening to the first case with an interval for both times (at most 60 wanted on two cores) and to
the last sample; from there to the reports; for each case the half-widths (at most 10 % wanted without --quick, or "not
converged" in its row). With --quick all of it within 60 s. Artifacts are exported before anything is timed. Run it on a
quiet machine.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import slmbench
from slmbench.running import events as e


class Clock:
    """Takes the time of what happens in a run."""

    def __init__(self) -> None:
        self.began = self.first = self.ended = math.nan
        self.labels: dict[str, str] = {}

    def __call__(self, event: e.Event) -> None:
        """Take an event."""
        now = time.monotonic()
        if isinstance(event, e.Begun):
            self.began, self.labels = now, dict(event.labels)
        elif isinstance(event, e.Judged) and math.isnan(self.first):
            widths = [width for _, width in event.intervals.values()]
            if len(widths) == 2 and all(map(math.isfinite, widths)):
                self.first = now
        elif isinstance(event, e.Ended):
            self.ended = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        slmbench.run(repeat=1, out=Path(temporary) / "exports")
        clock = Clock()
        found = slmbench.run(quick=asked.quick, out=asked.out or Path(temporary) / "run", observer=clock)
        done = time.monotonic()
    print(f"first row {clock.first - clock.began:.1f} s, last sample {clock.ended - clock.began:.1f} s, ", end="")
    print(f"reports {done - clock.ended:.1f} s later")
    for key, outcome in found.columns.record.outcomes.items():
        widths = (f"{name} {'?' if width is None else f'{width:.1%}'}" for name, width in outcome.half_width.items())
        print(f"{clock.labels[key]}: {outcome.loads} loads, {', '.join(widths)}")


if __name__ == "__main__":
    main()
