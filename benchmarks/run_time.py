"""What a user waits for: whole commands of this slmbench and of an older one, in turn, with the same options.

    python benchmarks/run_time.py --old /path/to/old/venv/bin/python [--only one arms grid memory] [--turns 3]

    one    one case with three loads (SmolLM2-135M's shape, int8, 512 in, 64 out, artifact cached): at most 15 s wanted
    arms   two arms of this interpreter, the same model in fp32, for 4 min: at least 10 loads of each wanted
    grid   5 input lengths x 6 output lengths of 2 models on 2 engines, 3 samples a case: at most a sixth of the old
           time and a fifth of its peak of live memory wanted; intervals no wider
    memory peak memory of each case of the grid, measured in shared processes and with --no-share: within 2 % wanted

Wall time, the largest resident memory of all processes together (looked at twice a second), and for the grid the median
half-width of the intervals. Artifacts are exported before anything is timed. Run it on a quiet machine: both sides
suffer from others alike, but each figure by itself does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ONE = ["--model", "smollm2-135m", "--precision", "int8", "--backend", "onnxruntime", "--input-tokens", "512"]
ONE += ["--output-tokens", "64", "--repeat", "3"]
GRID = ["--model", "mu-tiny", "--model", "dec-tiny", "--backend", "openvino", "--backend", "onnxruntime"]
INPUTS, OUTPUTS = (16, 32, 64, 128, 256), (4, 8, 16, 32, 64, 96)


#: How far memory in a shared process may be from that in one of its own.
WANTED = 0.02
PARTS = ("one", "arms", "grid", "memory")


@dataclass
class Turn:
    """One command's cost."""

    seconds: float
    peak_bytes: int
    half_widths: list[float] = field(default_factory=list)
    #: Loads of the case with the fewest.
    loads: int = 0


def grid() -> list[str]:
    """Return the options of the grid, in the words that 0.2.0 knows, too."""
    lengths = [word for n in INPUTS for word in ("--input-tokens", str(n))]
    return [*GRID, *lengths, *(word for n in OUTPUTS for word in ("--output-tokens", str(n))), "--repeat", "3"]


def export(python: str, options: Sequence[str], folder: Path) -> None:
    """Export what the options need; a budget of a second leaves the rest unmeasured."""
    command = [python, "-m", "slmbench", "run", *options, "--budget", "1", "--out", str(folder)]
    subprocess.run(command, capture_output=True, check=False, cwd=folder.parent)


def run(python: str, options: Sequence[str], folder: Path) -> Turn:
    """Run the command to its end; follow the memory of everything it starts."""
    begin, peak = time.monotonic(), 0
    command = [python, "-m", "slmbench", "run", *options, "--out", str(folder)]
    # Elsewhere than in this tree: its slmbench would be imported, whatever the interpreter has.
    there = folder.parent
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=there) as process:
        followed = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(followed))
            time.sleep(0.5)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}\n{said[-2000:]}")
    seconds = time.monotonic() - begin
    outcomes = json.loads((folder / "run.json").read_text())["outcomes"].values()
    loads = min(outcome["loads"] for outcome in outcomes)
    widths = [width for outcome in outcomes for width in outcome["half_width"].values() if width is not None]
    return Turn(seconds, peak, widths, loads)


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        return total
    return total


def memory(python: str, folder: Path) -> None:
    """Print how far the memory of shared processes is from that of processes of their own, by engine."""
    found = []
    for name, more in (("shared", []), ("alone", ["--no-share"])):
        run(python, [*grid()[:-1], "1", *more], folder / name)
        records = map(json.loads, (folder / name / "samples.jsonl").read_text().splitlines())
        found.append({r["case"]: r["peak_rss_bytes"] for r in records if r["type"] == "memory"})
    for engine in ("openvino", "onnxruntime"):
        ratios = {key: found[0][key] / found[1][key] for key in found[1] if f"|{engine}|" in key}
        least, most = min(ratios.values()), max(ratios.values())
        print(f"memory {engine}: shared / alone {least:.3f} to {most:.3f}, {len(ratios)} cases", flush=True)
        for key, ratio in ratios.items():
            if abs(ratio - 1) > WANTED:
                print(f"  {key}: {ratio:.3f}, {found[1][key] / 2**20:.0f} MiB alone", flush=True)


def show(what: str, side: str, turns: Sequence[Turn]) -> None:
    """Print a line for one side."""
    seconds = [turn.seconds for turn in turns]
    peak = max(turn.peak_bytes for turn in turns) / 2**20
    widths = [width for turn in turns for width in turn.half_widths]
    width = f", median half-width {statistics.median(widths):.1%} of {len(widths)}" if widths else ""
    times = " ".join(f"{one:.1f}" for one in seconds)
    cost = f"peak {peak:.0f} MiB, {turns[-1].loads} loads{width}"
    print(f"{what:5} {side:4} {statistics.median(seconds):8.1f} s  ({times})  {cost}", flush=True)


def main() -> None:
    """Run what is asked for, the sides in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--old", help="interpreter of an older slmbench; without one only this one is timed")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    here = sys.executable
    arms = ["--model", "smollm2-135m", "--backend", "openvino", "--input-tokens", "512", "--output-tokens", "64"]
    arms += ["--arm", f"a={here}", "--arm", f"b={here}", "--precision", "fp32", "--budget", "240"]
    arms += ["--interval-target", "0.1"]
    options = {"one": ONE, "arms": arms, "grid": grid()}
    sides = {"new": here} | ({"old": given.old} if given.old else {})
    with tempfile.TemporaryDirectory() as scratch:
        for what in given.only:
            if what == "memory":
                memory(here, Path(scratch) / what)
                continue
            turns: dict[str, list[Turn]] = {side: [] for side in sides}
            for side, python in sides.items():
                export(python, options[what], Path(scratch) / f"{what}-{side}-exports")
            for number in range(given.turns):
                for side in sorted(sides, reverse=bool(number % 2)):
                    turns[side].append(run(sides[side], options[what], Path(scratch) / f"{what}-{side}-{number}"))
            for side in sides:
                show(what, side, turns[side])


if __name__ == "__main__":
    main()
