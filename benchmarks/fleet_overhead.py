"""What a fleet costs a figure: one case through a one-machine fleet and locally, load by load in turn.

    python benchmarks/fleet_overhead.py [--model mu-tiny] [--runs 4]

A scheduler and a worker run as processes on loopback. The same case is run at the same time by `slmbench run --fleet`
and by plain `slmbench run`, but only one of them measures: every measuring worker asks a referee here as its first deed
(a `sitecustomize` on its path), and has the machine until it ends. So the loads of both alternate, as the cases of one
run do, and the machine's drift meets both. In a local load's turn the fleet's processes are suspended: it has the
machine to itself. The ratio is taken in every pair of loads; which of the two comes first is drawn. Wanted: 1.00, with
a 95 % half-width of at most 2 %, to the first token and per token.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from slmbench.analysis import stats
from slmbench.analysis.metrics import side_of
from slmbench.analysis.ratios import log_ratio
from slmbench.fleet.read import run_folders
from slmbench.records.sample_arrays import read_columns

METRICS = ("ttft", "tpot")
MACHINE = "here"
SLMBENCH = (sys.executable, "-m", "slmbench")
WANTED_HALF_WIDTH = 0.02
#: A target that nothing reaches: each side loads as often as a case may be loaded. The budget is no limit either.
ALL_LOADS = ("--interval-target", "0.001", "--budget", "3600")
SIDES = ("local", "fleet")
#: Run by every interpreter that starts: a measuring worker waits for its turn; the connection's end is the turn's.
CUSTOMIZE = """
import os, sys
if "slmbench.worker" in sys.orig_argv and "TURN_PORT" in os.environ:
    import socket
    sys.turn = socket.create_connection(("127.0.0.1", int(os.environ["TURN_PORT"])))
    sys.turn.sendall(os.environ["TURN_SIDE"].encode().ljust(8))
    sys.turn.recv(1)
"""


class Referee:
    """Gives turns: a side's measuring worker has the machine until its process ends, then it is the other side's."""

    def __init__(self, fleet: Sequence[psutil.Process]) -> None:
        self._fleet = fleet
        self._server = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._waiting: dict[str, queue.SimpleQueue[socket.socket]] = {side: queue.SimpleQueue() for side in SIDES}
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where measuring workers ask."""
        return int(self._server.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                worker, _ = self._server.accept()
            except OSError:
                return
            self._waiting[worker.recv(8, socket.MSG_WAITALL).decode().strip()].put(worker)

    def give_turns(self, runs: Mapping[str, psutil.Popen]) -> None:
        """Give turns until all runs, by side, have ended."""
        while any(run.poll() is None for run in runs.values()):
            # Drawn: of two local runs the one whose loads always came second read 2 % slower to the first token.
            for side, run in random.sample([*runs.items()], len(runs)):
                away = [] if side == "fleet" or "fleet" not in runs else [*self._fleet, runs["fleet"]]
                for process in away:
                    if process.is_running():
                        process.suspend()
                self._turn(side, run)
                for process in away:
                    if process.is_running():
                        process.resume()

    def _turn(self, side: str, run: psutil.Popen) -> None:
        while run.poll() is None:
            try:
                worker = self._waiting[side].get(timeout=0.2)
            except queue.Empty:
                continue
            with worker:
                worker.sendall(b"!")
                worker.recv(1)
            return


@contextmanager
def serving(environment: Mapping[str, str], *arguments: str) -> Iterator[tuple[psutil.Popen, str]]:
    """Yield a scheduler or worker as a process, and the line it began with."""
    command = [*SLMBENCH, "fleet", *arguments]
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(environment))
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"fleet {arguments[0]} ended with {process.wait()}")
        yield process, line
    finally:
        process.terminate()
        process.wait()


def measured(folder: Path, arguments: Sequence[str]) -> dict[str, stats.Estimate]:
    """Measure on both sides, load by load in turn; return fleet over local by metric, a pair of loads the unit."""
    (folder / "sitecustomize.py").write_text(CUSTOMIZE, encoding="utf-8")
    fleet: list[psutil.Process] = []
    referee = Referee(fleet)
    sides = {
        side: {**os.environ, "PYTHONPATH": str(folder), "TURN_PORT": str(referee.port), "TURN_SIDE": side}
        for side in SIDES
    }

    def start(side: str, name: str, *more: str) -> psutil.Popen:
        command = [*SLMBENCH, "run", *arguments, *more, "--out", str(folder / name)]
        with (folder / f"{name}.log").open("w") as log:
            return psutil.Popen(command, stdout=log, stderr=log, env=sides[side])

    with (
        serving(sides["fleet"], "scheduler", "--port", "0") as (scheduler, said),
        serving(sides["fleet"], "worker", "--scheduler", said.split()[-1], "--name", MACHINE) as (
            worker,
            _,
        ),
    ):
        fleet += [scheduler, worker]
        through = ("--fleet", said.split()[-1])
        # Exports, limits and caches are in place after one of each; neither counts.
        referee.give_turns({"local": start("local", "first-local", "--repeat", "1")})
        referee.give_turns({"fleet": start("fleet", "first-fleet", "--repeat", "1", *through)})
        more = {"local": (), "fleet": through}
        runs = {side: start(side, side, *ALL_LOADS, *more[side]) for side in random.sample(SIDES, len(SIDES))}
        referee.give_turns(runs)
    for side, run in runs.items():
        if run.returncode:
            raise SystemExit(f"the {side} run ended with {run.returncode}:\n{(folder / f'{side}.log').read_text()}")
    (there,) = run_folders(folder / "fleet", MACHINE)
    (local,), (remote,) = (
        side_of(read_columns(path, keep_tokens=False), "run").cases.values() for path in (folder / "local", there)
    )
    return {metric: log_ratio(local.evidence[metric], remote.evidence[metric], interleaved=True) for metric in METRICS}


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mu-tiny")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=4, help="of 30 loads a side each; figures are of all together")
    given = parser.parse_args()
    lengths = ["--input-tokens", str(given.input_tokens), "--output-tokens", str(given.output_tokens)]
    arguments = ["--model", given.model, "--backend", given.backend, *lengths]
    found: dict[str, list[stats.Estimate]] = {metric: [] for metric in METRICS}
    for run in range(given.runs):
        with tempfile.TemporaryDirectory() as folder:
            for metric, ratio in measured(Path(folder), arguments).items():
                found[metric].append(ratio)
        told = "  ".join(f"{metric} {ratios[-1].interval().mid:.3f}" for metric, ratios in found.items())
        print(f"run {run + 1}: fleet / local  {told}", flush=True)
    print(f"{given.model} on {given.backend}, {given.input_tokens} in, {given.output_tokens} out; {given.runs} runs")
    for metric, ratios in found.items():
        whole = stats.geometric_mean(ratios).interval()
        width = stats.relative_half_width(whole)
        reached = "reached" if width <= WANTED_HALF_WIDTH and whole.low <= 1 <= whole.high else "NOT REACHED"
        print(f"  {metric}: {whole.mid:.4f} [{whole.low:.4f}, {whole.high:.4f}], half-width {width:.2%}: {reached}")


if __name__ == "__main__":
    main()
