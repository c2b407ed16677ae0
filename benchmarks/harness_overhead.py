"""What measuring costs: the worker against a bare loop, a suspended neighbour, the time and memory of the host.

    python benchmarks/harness_overhead.py [--model dec-tiny] [--backend openvino] [--pairs 200]

1. One worker process, one session. In turn, in random order, a sample is taken through slmbench and by a bare
   loop that does nothing but call the session: the ratio is what the harness adds to ttft and tpot.
2. The same worker with and without a neighbour that has worked and is now suspended.
3. A short run of two cases: the wall time of a sample less its own, and the host's memory.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import psutil
from _case import planned_case

from slmbench.analysis.stats import Interval, median_interval
from slmbench.backend import Session
from slmbench.running import events as e
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import Worker
from slmbench.worker import protocol as p
from slmbench.worker.__main__ import main as serve_worker
from slmbench.worker.server import Service

AS_WORKER = "--as-worker"


class BareOrNot(Service):
    """Takes samples of even rounds as slmbench does, those of odd rounds with a bare loop."""

    def answer(self, request: p.Request) -> p.Reply:
        """Answer; whose turn it is, the round's number tells."""
        if isinstance(request, p.Open):
            self.work = request.case.workload
        if isinstance(request, p.TakeSample) and request.round % 2:
            return self.bare(request.round)
        return super().answer(request)

    def bare(self, seed: int) -> p.Sampled:
        """Call the session and nothing else."""
        session = self.session
        assert isinstance(session, Session)
        ids = np.random.default_rng(seed).integers(10, 400, (self.work.batch, self.work.input_tokens))
        stamps = []
        begin = perf_counter_ns()
        token = session.start(ids)
        stamps.append(perf_counter_ns() - begin)
        for _ in range(self.work.output_tokens - 1):
            token = session.step(token)
            stamps.append(perf_counter_ns() - begin)
        return p.Sampled(token_ns=tuple(stamps), phases_ns={}, input_tokens=self.work.input_tokens)


def open_worker(planned: PlannedCase, folder: Path, name: str) -> Worker:
    worker = Worker(folder / f"{name}.log", command=[sys.executable, str(Path(__file__)), AS_WORKER])
    worker.ask(p.Open(case=planned.case, artifact=planned.artifact, options=planned.options, seed=0), p.Opened, 600)
    worker.ask(p.WarmUp(workload=planned.case.workload, load=0, most=8), p.Warm, 600)
    return worker


def figures(worker: Worker, number: int) -> tuple[float, float]:
    """Take the sample with that number; return ttft and tpot in ms."""
    stamps = worker.ask(p.TakeSample(round=number), p.Sampled, 600).token_ns
    return stamps[0] / 1e6, (stamps[-1] - stamps[0]) / (len(stamps) - 1) / 1e6


def show(what: str, ratios: list[float]) -> None:
    found: Interval = median_interval(ratios)
    print(f"  {what:40} {found.mid:.4f}   95 % [{found.low:.4f}, {found.high:.4f}]   n {len(ratios)}")


def harness_against_bare(planned: PlannedCase, folder: Path, pairs: int) -> None:
    source = random.Random(0)
    ratios: dict[str, list[float]] = {"ttft": [], "tpot": []}
    with open_worker(planned, folder, "one") as worker:
        for pair in range(pairs):
            numbers = [2 * pair, 2 * pair + 1]
            source.shuffle(numbers)
            found = {number % 2: figures(worker, number) for number in numbers}
            ratios["ttft"].append(found[0][0] / found[1][0])
            ratios["tpot"].append(found[0][1] / found[1][1])
    print("through slmbench / bare loop, same session, neighbours in time")
    for metric, values in ratios.items():
        show(metric, values)


def suspended_neighbour(planned: PlannedCase, folder: Path, turns: int) -> None:
    """The neighbour is resumed and put to work before each turn, then suspended or ended."""
    ratios: dict[str, list[float]] = {"ttft": [], "tpot": []}
    with open_worker(planned, folder, "measured") as worker:
        worker.suspend()
        for turn in range(turns):
            least = {}
            for present in random.Random(turn).sample([True, False], 2):
                with open_worker(planned, folder, "neighbour") as neighbour:
                    figures(neighbour, 2 * turn)
                    neighbour.suspend()
                    if not present:
                        neighbour.kill()
                    figures(worker, 0)
                    # The least of a few: foreign load only ever adds.
                    least[present] = np.min([figures(worker, 100 * turn + 2 * n) for n in range(12)], axis=0)
                    worker.suspend()
            for index, metric in enumerate(ratios):
                ratios[metric].append(float(least[True][index] / least[False][index]))
    print("with a suspended neighbour / alone, turn about")
    for metric, values in ratios.items():
        show(metric, values)


def orchestration(plan: list[PlannedCase], folder: Path) -> None:
    last = 0.0
    extra: list[float] = []

    def look(event: e.Event) -> None:
        nonlocal last
        now = time.perf_counter()
        if isinstance(event, e.SampleTaken) and last:
            extra.append((now - last) * 1e3 - event.record.token_ns[-1] / 1e6)
        last = now if isinstance(event, e.SampleTaken) else 0.0

    measure(plan, folder, MeasureSettings(repeat=60, foreign_load_bound=100.0), look)
    memory = psutil.Process().memory_full_info()
    print("the host, per sample beyond the sample's own time")
    print(f"  median {np.median(extra):.1f} ms, largest {max(extra):.1f} ms, n {len(extra)}")
    print(f"  memory: resident {memory.rss / 1e6:.0f} MB, of its own {memory.uss / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="dec-tiny")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--turns", type=int, default=25)
    given = parser.parse_args()
    plan = [
        planned_case(
            given.model, given.backend, input_tokens=given.input_tokens, output_tokens=given.output_tokens, arm=arm
        )
        for arm in ("a", "b")
    ]
    print(f"{given.model} on {given.backend}, {given.input_tokens} in, {given.output_tokens} out, fp32")
    with tempfile.TemporaryDirectory() as folder:
        harness_against_bare(plan[0], Path(folder), given.pairs)
        suspended_neighbour(plan[0], Path(folder), given.turns)
        run = Path(folder) / "run"
        run.mkdir()
        orchestration(plan, run)


if __name__ == "__main__":
    if AS_WORKER in sys.argv:
        os._exit(serve_worker(BareOrNot))
    main()
