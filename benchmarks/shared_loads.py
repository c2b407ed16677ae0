"""Whether a workload measures the same in a load that serves other workloads too as in a load of its own.

    python benchmarks/shared_loads.py [--engine openvino onnxruntime] [--family decoder-only encoder-decoder]
                                      [--precision fp32 int8] [--rounds 15] [--minutes 20] [--out FILE]
    python benchmarks/shared_loads.py --table [--out FILE]

A load is a process that opens the model once. In every round these loads are open next to each other, and sample in
turns, in random order, so that what disturbs the machine for seconds hits all of them:

own: one workload (each input length has such a load), reserved at its own length.
grouped: all workloads, one length after the other, in random order; reserved at the longest. Each group is warmed up
    when its turn comes.
alternating: the same, but before each sample comes a generation of another length.
reserved: one workload, the shortest, reserved at the longest: what the larger buffers do by themselves.
again: a second own load of the shortest. Its ratio is 1 but for chance: the noise that the other rows have too.

The table gives ttft and tpot of such a load divided by those of the round's own load: the median over neighbouring
samples, then the geometric mean over rounds with a 95 % t interval. A workload may share a load when the interval is
within ±2 %. The half-width of load medians that are not paired (Welch) is given next to it.

"first n" divides the first n tokens of a longer generation by a generation of n tokens. Both are taken in turns, in
the own loads; the interval is over loads, and ±1 % is wanted.

Every round is written to the file when it ends. Starting again continues where the file ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _case import planned_case

from slmbench.analysis import stats
from slmbench.backend import load_backend
from slmbench.measure.generate import generate
from slmbench.measure.warmup import warm_up
from slmbench.models.artifact import read_artifact
from slmbench.system.processes import die_with_host, go_first
from slmbench.terms import Precision

MODELS = {"decoder-only": "dec-small", "encoder-decoder": "mu-small"}
SHARED = ("grouped", "alternating", "reserved", "again")
#: Kinds of load that serve the shortest workload alone.
SHORTEST = ("reserved", "again")
SHARED_WITHIN, DERIVED_WITHIN = 0.02, 0.01

#: In a load's process: its session, and what draws its prompts.
_HERE: dict[str, Any] = {}


@dataclass(frozen=True)
class Cell:
    """What is opened: one engine, one model."""

    engine: str
    family: str
    precision: Precision


@dataclass(frozen=True)
class Opening:
    """How a load's process opens the model."""

    backend: str
    folder: Path
    options: dict[str, Any]
    vocabulary: int


@dataclass(frozen=True)
class Shape:
    """What a load reserves, in tokens, and the length of its first prompt."""

    first_inputs: int
    reserved: int
    output_tokens: int


def open_here(opening: Opening, shape: Shape, seed: list[int]) -> None:
    """Open the model in this process and run its first inference."""
    die_with_host()
    go_first()
    backend = load_backend(opening.backend)
    options = backend.options_type.model_validate(opening.options)
    session = backend.open(read_artifact(opening.folder), "cpu", options)
    session.reserve(1, shape.reserved, shape.output_tokens)
    _HERE.update(session=session, rng=np.random.default_rng(seed), vocabulary=opening.vocabulary)
    stamps_here(shape.first_inputs, 2)
    gc.collect()
    gc.freeze()


def stamps_here(inputs: int, outputs: int) -> tuple[int, ...]:
    """Generate from a new prompt; return when each token came, in ns."""
    prompt = _HERE["rng"].integers(4, _HERE["vocabulary"], (1, inputs))
    return generate(_HERE["session"], prompt, None, outputs).token_ns


def warm_here(inputs: int, outputs: int) -> None:
    """Generate until two in a row take the same time, at most three times."""

    def once(_: int) -> tuple[int, int]:
        stamps = stamps_here(inputs, outputs)
        return stamps[0], stamps[-1]

    warm_up(once, 3)


class Load:
    """A process that opened the model."""

    def __init__(self, kind: str, opening: Opening, shape: Shape, round_: int) -> None:
        self.kind, self._outputs = kind, shape.output_tokens
        seed = [round_, *kind.encode(), shape.reserved, shape.first_inputs]
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=open_here, initargs=(opening, shape, seed)
        )

    def __enter__(self) -> Load:
        """Wait until the model is open."""
        self._pool.submit(int).result()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pool.shutdown()

    def warm(self, inputs: int) -> None:
        """Warm up for prompts of that length."""
        self._pool.submit(warm_here, inputs, self._outputs).result()

    def sample(self, inputs: int, outputs: int | None = None, *, first: int | None = None) -> tuple[float, float]:
        """Return ttft and tpot in ns, of all tokens or the first ones."""
        stamps = self._pool.submit(stamps_here, inputs, outputs or self._outputs).result()[:first]
        return float(stamps[0]), (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def one_round(opening: Opening, round_: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return by kind of load and input length the (ttft, tpot) of the samples, and the pairs of "first n"."""
    rng = random.Random(round_)
    order, outputs = rng.sample(given.inputs, len(given.inputs)), given.output_tokens
    shortest, longest = min(given.inputs), max(given.inputs)
    samples: dict[str, dict[int, list[tuple[float, float]]]] = {kind: {} for kind in ("own", *given.kinds)}
    pairs: dict[int, list[tuple[float, ...]]] = {}
    with ExitStack() as stack:
        made = [Load("own", opening, Shape(n, n, outputs), round_) for n in order]
        for kind in given.kinds:
            begins = shortest if kind in SHORTEST else order[0]
            made.append(Load(kind, opening, Shape(begins, shortest if kind == "again" else longest, outputs), round_))
        for load in rng.sample(made, len(made)):
            stack.enter_context(load)
        for own, inputs in zip(made, order, strict=False):
            serving = [own, *(m for m in made[len(order) :] if inputs == shortest or m.kind not in SHORTEST)]
            for load in rng.sample(serving, len(serving)):
                load.warm(inputs)
            for _ in range(given.samples):
                for load in rng.sample(serving, len(serving)):
                    if load.kind == "alternating":
                        load.sample(rng.choice([n for n in order if n != inputs]))
                    samples[load.kind].setdefault(inputs, []).append(load.sample(inputs))
            if given.pairs:
                # The first short one is not counted: the first long one was not either.
                own.sample(inputs, given.first)
            for _ in range(given.pairs):
                sizes = rng.sample((outputs, given.first), 2)
                taken = {size: own.sample(inputs, size, first=given.first) for size in sizes}
                pairs.setdefault(inputs, []).append(taken[outputs] + taken[given.first])
    return {"order": order, "samples": samples, "pairs": pairs, "output_tokens": outputs, "first": given.first}


def read(path: Path) -> list[dict[str, Any]]:
    """Return what is in the file, one round a line; a line that was cut off by a stop is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cell_of(line: dict[str, Any]) -> Cell:
    """Return what the line is about."""
    return Cell(line["engine"], line["family"], line["precision"])


def measure(given: argparse.Namespace) -> None:
    """Run the rounds that the file lacks, over all cells in turn, until the time is over."""
    deadline = time.monotonic() + 60 * given.minutes
    cells = [Cell(e, f, p) for p in given.precision for f in given.family for e in given.engine]
    openings = {cell: opening_of(cell, given) for cell in cells}
    done = {(cell_of(line), line["round"]) for line in read(given.out)}
    for round_ in range(given.rounds):
        for cell in cells:
            if (cell, round_) in done:
                continue
            if time.monotonic() > deadline:
                return
            begin, busy = time.monotonic(), os.getloadavg()[0]
            line = asdict(cell) | {"round": round_} | one_round(openings[cell], round_, given)
            line |= {"seconds": round(time.monotonic() - begin, 1), "load_average": busy}
            with given.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(cell.engine, cell.family, cell.precision, "round", round_, line["seconds"], "s", flush=True)


def opening_of(cell: Cell, given: argparse.Namespace) -> Opening:
    """Export what the store lacks."""
    planned = planned_case(
        MODELS[cell.family],
        cell.engine,
        input_tokens=max(given.inputs),
        output_tokens=given.output_tokens,
        precision=cell.precision,
    )
    return Opening(cell.engine, planned.artifact, planned.options, planned.checkpoint.geometry.vocab_size)


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the rows of the table."""
    yield "| engine | family | weights | load | input tokens | metric | ratio | ± | unpaired ± | n | wanted | holds |"
    yield "| :--- | :--- | :--- | :--- | ---: | :--- | ---: | ---: | ---: | ---: | ---: | :--- |"
    for cell in dict.fromkeys(map(cell_of, lines)):
        mine = [line for line in lines if cell_of(line) == cell]
        names = (cell.engine, cell.family, cell.precision)
        for inputs in map(str, sorted({n for line in mine for n in line["order"]})):
            for metric, name in enumerate(("ttft", "tpot")):
                for kind in SHARED:
                    both = [
                        (line["samples"]["own"][inputs], line["samples"][kind][inputs])
                        for line in mine
                        if inputs in line["samples"].get(kind, ())
                    ]
                    if len(both) > 1:
                        paired = [median_log((s[metric], o[metric]) for o, s in zip(*p, strict=True)) for p in both]
                        own, shared = (mean([median_log((s[metric], 1.0) for s in p[i]) for p in both]) for i in (0, 1))
                        yield row((*names, kind, inputs, name), paired, stats.ratio(own, shared), SHARED_WITHIN)
                pairs = [line["pairs"][inputs] for line in mine if line["pairs"]]
                if len(pairs) > 1:
                    first = [median_log((p[metric], p[metric + 2]) for p in load) for load in pairs]
                    yield row((*names, f"first {mine[0]['first']}", inputs, name), first, None, DERIVED_WITHIN)


def median_log(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the median of the log ratios."""
    return statistics.median(math.log(above / below) for above, below in pairs)


def mean(logs: Sequence[float]) -> stats.Estimate:
    """Return the mean of independent values with its standard error."""
    return stats.Estimate(statistics.fmean(logs), statistics.stdev(logs) / len(logs) ** 0.5, len(logs) - 1)


def row(names: Sequence[str], logs: Sequence[float], apart: stats.Estimate | None, within: float) -> str:
    """Return one row; "no" only where the whole interval is outside of what is wanted."""
    found = mean(logs).interval()
    if stats.is_equivalent(found, within):
        holds = "yes"
    else:
        holds = "no" if found.low > 1 + within or found.high < 1 / (1 + within) else "open"
    width = f"{stats.relative_half_width(apart.interval()):.1%}" if apart else ""
    cells = (f"{found.mid:.3f}", f"{stats.relative_half_width(found):.1%}", width, len(logs), f"±{within:.0%}", holds)
    return f"| {' | '.join(map(str, (*names, *cells)))} |"


def main() -> None:
    """Measure what the file lacks, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", nargs="+", default=["openvino", "onnxruntime"])
    parser.add_argument("--family", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--first", type=int, default=16, help="tokens of the short generation")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=4, help="of each workload in a load")
    parser.add_argument("--pairs", type=int, default=4, help="long and short generations in an own load")
    parser.add_argument("--kinds", nargs="+", choices=SHARED, default=["grouped"])
    parser.add_argument("--minutes", type=float, default=600, help="start no round after so many")
    parser.add_argument("--out", type=Path, default=Path("shared_loads.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of the file and measure nothing")
    given = parser.parse_args()
    if not given.table:
        measure(given)
    print("\n".join(table(read(given.out))))


if __name__ == "__main__":
    main()
