"""Whether a workload measures the same in a load that serves other workloads too as in a load of its own.

    python benchmarks/shared_loads.py [--engine openvino onnxruntime] [--family decoder-only encoder-decoder]
                                      [--precision fp32 int8] [--rounds 15] [--minutes 20] [--out FILE]
    python benchmarks/shared_loads.py --table [--out FILE]

A load is a process that opens the model once. Every round has these loads, in random order:

own: one workload (each input length has such a load), reserved at its own length.
grouped: all workloads, one length after the other, in random order; reserved at the longest. Each group is warmed up
    when its turn comes.
alternating: the same, but the length changes with every generation.
reserved: one workload, the shortest, reserved at the longest: what the larger buffers do by themselves.

The table gives ttft and tpot of such a load divided by those of the round's own load: the geometric mean over rounds
of the ratio of load medians, with a 95 % t interval over rounds. A workload may share a load when the interval is
within ±2 %. The half-width of loads that are not paired by round (Welch) is given next to it.

"first n" divides the first n tokens of a longer generation by a generation of n tokens. Both are taken in turns, in
the own loads; the interval is over loads, and ±1 % is wanted.

Every load is written to the file when it ends. Starting again continues where the file ends.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _case import planned_case

from slmbench.analysis import stats
from slmbench.backend import LoopSession, Session, load_backend
from slmbench.measure.generate import generate
from slmbench.measure.warmup import warm_up
from slmbench.models.artifact import read_artifact
from slmbench.system.processes import die_with_host, go_first
from slmbench.terms import Precision

MODELS = {"decoder-only": "dec-small", "encoder-decoder": "mu-small"}
SHARED = ("grouped", "alternating", "reserved")
SHARED_WITHIN, DERIVED_WITHIN = 0.02, 0.01


@dataclass(frozen=True)
class Cell:
    """What is opened: one engine, one model."""

    engine: str
    family: str
    precision: Precision


@dataclass(frozen=True)
class Plan:
    """What one load does. Lengths in tokens."""

    kind: str
    round: int
    #: In the order in which they are measured.
    inputs: tuple[int, ...]
    reserved: int
    output_tokens: int
    samples: int
    #: Pairs of a long and a short generation, and the tokens of the short one; 0: none.
    pairs: int
    first: int


@dataclass(frozen=True)
class Opening:
    """How the model is opened in the load's process."""

    backend: str
    folder: Path
    options: dict[str, Any]
    vocabulary: int


@dataclass
class Load:
    """What a load gave: by input length, (ttft, tpot) in ns; of pairs the long one's first tokens, then the short."""

    samples: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    pairs: dict[int, list[tuple[float, float, float, float]]] = field(default_factory=lambda: defaultdict(list))


class Bench:
    """One open session that generates from a new prompt each time."""

    def __init__(self, session: Session | LoopSession, vocabulary: int, seed: list[int]) -> None:
        self._session, self._vocabulary = session, vocabulary
        self._rng = np.random.default_rng(seed)

    def stamps(self, inputs: int, outputs: int) -> tuple[int, ...]:
        """Generate, and return when each token came, in ns."""
        prompt = self._rng.integers(4, self._vocabulary, (1, inputs))
        return generate(self._session, prompt, None, outputs).token_ns

    def warm(self, inputs: int, outputs: int) -> None:
        """Generate until two in a row take the same time, at most three times."""

        def once(_: int) -> tuple[int, int]:
            stamps = self.stamps(inputs, outputs)
            return stamps[0], stamps[-1]

        warm_up(once, 3)


def figures(stamps: Sequence[int]) -> tuple[float, float]:
    """Return ttft and tpot in ns."""
    return float(stamps[0]), (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def carry_out(opening: Opening, plan: Plan) -> Load:
    """Open, warm up, sample, close. Runs in a process of its own."""
    die_with_host()
    go_first()
    backend = load_backend(opening.backend)
    options = backend.options_type.model_validate(opening.options)
    session = backend.open(read_artifact(opening.folder), "cpu", options)
    session.reserve(1, plan.reserved, plan.output_tokens)
    seed = [plan.round, *plan.kind.encode(), *plan.inputs]
    bench, load, order = Bench(session, opening.vocabulary, seed), Load(), random.Random(str(seed))
    bench.stamps(plan.inputs[0], 2)
    gc.collect()
    gc.freeze()
    mixed = plan.kind == "alternating"
    for inputs in plan.inputs:
        bench.warm(inputs, plan.output_tokens)
        for _ in range(0 if mixed else plan.samples):
            load.samples[inputs].append(figures(bench.stamps(inputs, plan.output_tokens)))
    for _ in range(plan.samples if mixed else 0):
        for inputs in plan.inputs:
            load.samples[inputs].append(figures(bench.stamps(inputs, plan.output_tokens)))
    if plan.pairs:
        # The first short one is not counted, as no first one of the long ones was.
        bench.stamps(plan.inputs[0], plan.first)
    for _ in range(plan.pairs):
        taken = {}
        for outputs in order.sample((plan.output_tokens, plan.first), 2):
            taken[outputs] = figures(bench.stamps(plan.inputs[0], outputs)[: plan.first])
        load.pairs[plan.inputs[0]].append(taken[plan.output_tokens] + taken[plan.first])
    session.close()
    return load


def plans(given: argparse.Namespace, round_: int) -> list[Plan]:
    """Return the loads of a round, in the order in which they run."""
    order, longest = random.Random(round_), max(given.inputs)
    sizes = {"output_tokens": given.output_tokens, "samples": given.samples, "first": given.first}
    made = [Plan("own", round_, (n,), reserved=n, pairs=given.pairs, **sizes) for n in given.inputs]
    for kind in given.kinds:
        inputs = (min(given.inputs),) if kind == "reserved" else tuple(order.sample(given.inputs, len(given.inputs)))
        made.append(Plan(kind, round_, inputs, reserved=longest, pairs=0, **sizes))
    order.shuffle(made)
    return made


def read(path: Path) -> list[dict[str, Any]]:
    """Return what is in the file, one load a line; a line that was cut off by a stop is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a load from all others."""
    own = line["inputs"][0] if line["kind"] == "own" else 0
    return (*(line[name] for name in ("engine", "family", "precision", "round", "kind")), own)


def measure(given: argparse.Namespace) -> None:
    """Run the loads that the file lacks, round by round over all cells, until the time is over."""
    deadline = time.monotonic() + 60 * given.minutes
    cells = [Cell(e, f, p) for p in given.precision for f in given.family for e in given.engine]
    openings = {cell: opening_of(cell, given) for cell in cells}
    done = {identity(line) for line in read(given.out)}
    for round_ in range(given.rounds):
        for cell in cells:
            for plan in plans(given, round_):
                line = asdict(cell) | asdict(plan)
                if identity(line) in done:
                    continue
                if time.monotonic() > deadline:
                    return
                begin, busy = time.monotonic(), os.getloadavg()[0]
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
                    line |= vars(child.submit(carry_out, openings[cell], plan).result())
                line |= {"seconds": round(time.monotonic() - begin, 2), "load_average": busy}
                with given.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(cell.engine, cell.family, plan.kind, plan.inputs, round_, line["seconds"], "s", flush=True)


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
    for cell in dict.fromkeys((line["engine"], line["family"], line["precision"]) for line in lines):
        mine = [line for line in lines if (line["engine"], line["family"], line["precision"]) == cell]
        for inputs in sorted({n for line in mine for n in line["inputs"]}):
            for metric, name in enumerate(("ttft", "tpot")):
                own = levels((line for line in mine if line["kind"] == "own"), inputs, metric)
                for kind in SHARED:
                    shared = levels((line for line in mine if line["kind"] == kind), inputs, metric)
                    pairs = [shared[r] - own[r] for r in sorted(own.keys() & shared.keys())]
                    if len(pairs) > 1:
                        apart = stats.ratio(mean(list(own.values())), mean(list(shared.values())))
                        yield row((*cell, kind, inputs, name), pairs, apart, SHARED_WITHIN)
                within = [by_load(line["pairs"][str(inputs)], metric) for line in mine if str(inputs) in line["pairs"]]
                if len(within) > 1:
                    first = next(line["first"] for line in mine)
                    yield row((*cell, f"first {first}", inputs, name), within, None, DERIVED_WITHIN)


def levels(lines: Iterable[dict[str, Any]], inputs: int, metric: int) -> dict[int, float]:
    """Return by round the log of the load's median."""
    return {
        line["round"]: float(np.log(statistics.median(s[metric] for s in line["samples"][str(inputs)])))
        for line in lines
        if str(inputs) in line["samples"]
    }


def by_load(pairs: Sequence[Sequence[float]], metric: int) -> float:
    """Return the median log ratio of a load's pairs."""
    return statistics.median(float(np.log(pair[metric] / pair[metric + 2])) for pair in pairs)


def mean(logs: Sequence[float]) -> stats.Estimate:
    """Return the mean of independent values with its standard error."""
    return stats.Estimate(float(np.mean(logs)), float(np.std(logs, ddof=1)) / len(logs) ** 0.5, len(logs) - 1)


def row(names: Sequence[Any], logs: Sequence[float], apart: stats.Estimate | None, within: float) -> str:
    """Return one row; "no" only where the whole interval is outside of what is wanted."""
    found = mean(logs).interval()
    if stats.is_equivalent(found, within):
        holds = "yes"
    else:
        holds = "no" if found.low > 1 + within or found.high < 1 - within else "open"
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
    parser.add_argument("--minutes", type=float, default=600, help="start no load after so many")
    parser.add_argument("--out", type=Path, default=Path("shared_loads.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of the file and measure nothing")
    given = parser.parse_args()
    if not given.table:
        measure(given)
    print("\n".join(table(read(given.out))))


if __name__ == "__main__":
    main()
