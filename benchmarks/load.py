"""Load: what thousands of cases take of the host, and how long their tables need.

    python benchmarks/load.py --cases 2000

Every case is measured by the real scheduler in real workers, with the tests' stand-in for an engine. Prints the time
and the host's memory after each stage; the memory should grow by some kB a case, from the cases' own records.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


class Meter:
    """Prints stages: seconds, memory now and at most and at most (MB)."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._began = time.monotonic()
        self.most = 0

    def sample(self) -> int:
        """Return the memory now in bytes and keep the largest."""
        now = int(self._process.memory_info().rss)
        self.most = max(self.most, now)
        return now

    def tell(self, what: str) -> None:
        """Print the stage that ended."""
        now, spent = self.sample(), time.monotonic() - self._began
        print(f"{what:<34} {spent:8.1f} s  {now / 1e6:6.0f} MB, at most {self.most / 1e6:.0f} MB", flush=True)
        self._began = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure_all(Path(scratch), asked.cases)


def measure_all(scratch: Path, cases: int) -> None:
    from standins import install_plugin, planned_case, write_artifact

    from slmbench.case import Workload
    from slmbench.records.sample_arrays import read_columns
    from slmbench.records.schema import CaseInfo, RunRecord, write_run
    from slmbench.report.write import write_reports
    from slmbench.running import events as e
    from slmbench.running.progress import Board
    from slmbench.running.scheduler import measure
    from slmbench.running.settings import MeasureSettings

    site, artifact, folder = scratch / "site", scratch / "artifact", scratch / "run"
    for made in (site, artifact, folder):
        made.mkdir()
    install_plugin(site)
    write_artifact(artifact)
    os.environ["PYTHONPATH"] = str(site)
    sys.path.insert(0, str(site))
    times = {"ttft_ms": 0.2, "step_ms": 0.1}
    plan = [
        planned_case(artifact, f"m{number}", Workload(input_tokens=8, output_tokens=4), None, times)
        for number in range(cases)
    ]
    infos = tuple(CaseInfo(case=one.case, checkpoint=one.checkpoint, engine="standin") for one in plan)
    record = RunRecord(
        run_id="load", slmbench_version="0", created="2026-01-01T00:00:00+00:00", seed=0, plan_digest="", cases=infos
    )
    write_run(folder, record)
    meter, board = Meter(), Board()
    meter.tell(f"{cases} cases planned")
    seen = {"surveyed": 0, "judged": 0}

    def observe(event: e.Event) -> None:
        board.take(event)
        board.table()
        stage = "judged" if isinstance(event, e.Judged) else "surveyed"
        if isinstance(event, e.Judged) or (isinstance(event, e.Ready) and event.record.warmups == 0):
            seen[stage] += 1
            if seen[stage] % max(1, cases // 4) == 0:
                meter.tell(f"{seen[stage]} cases {stage}")
        meter.sample()

    settings = MeasureSettings(repeat=1, max_warmups=2, settle_s=0)
    measured = measure(plan, folder, settings, observe)
    print(f"{len(measured.blocks)} blocks, the largest of {max(map(len, measured.blocks))}")
    meter.tell("ended")
    assert measure(plan, folder, settings).outcomes == measured.outcomes
    meter.tell("resumed, nothing left to do")
    write_reports(read_columns(folder))
    meter.tell("table and report")
    for path in sorted(folder.iterdir()):
        print(f"{path.name:<20} {path.stat().st_size / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
