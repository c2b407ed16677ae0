"""Where two families cross: the input length at which the faster one changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from slmbench.evidence import Side, SideCase
from slmbench.stats import Interval
from slmbench.terms import Family


@dataclass(frozen=True)
class Curve:
    """Time to first token of one model on one engine over the input length; of several paths the fastest."""

    label: str
    family: Family
    #: What curves must share to be compared: engine, device, precision, output length, batch.
    group: tuple[str, ...]
    #: Input tokens to the time in s.
    points: dict[int, Interval]


@dataclass(frozen=True)
class Crossover:
    """A length at which two curves cross."""

    length: float
    #: Engine and precision.
    text: str


def curves_of(side: Side) -> list[Curve]:
    """Return the curves of a side, lengths rising."""
    found: dict[tuple[str, tuple[str, ...]], dict[int, tuple[Interval, SideCase]]] = {}
    for measured in side.cases.values():
        evidence = measured.evidence.get("ttft")
        if evidence is None:
            continue
        case, work = measured.case, measured.case.workload
        group = (
            measured.model.engine,
            case.device,
            f"{case.weight_precision}/{case.compute_precision}",
            f"batch {work.batch}",
        )
        points = found.setdefault((case.checkpoint, group), {})
        interval = evidence.interval()
        if work.input_tokens not in points or interval.mid < points[work.input_tokens][0].mid:
            points[work.input_tokens] = (interval, measured)
    return [
        Curve(
            label=f"{name}, {group[0]} {group[2]}",
            family=next(iter(points.values()))[1].model.family,
            group=group,
            points={length: points[length][0] for length in sorted(points)},
        )
        for (name, group), points in found.items()
    ]


def crossovers(curves: Sequence[Curve]) -> list[Crossover]:
    """Return where an encoder-decoder's curve crosses a decoder-only's of the same group.

    Between two measured lengths both are taken as straight lines on logarithmic axes.
    """
    return [
        Crossover(length, f"{encoder.group[0]} {encoder.group[2]}")
        for encoder in curves
        for decoder in curves
        if encoder.family == "encoder-decoder" and decoder.family == "decoder-only" and encoder.group == decoder.group
        for length in _crossings(encoder, decoder)
    ]


def _crossings(first: Curve, second: Curve) -> list[float]:
    common = [length for length in first.points if length in second.points]
    gaps = [(math.log(x), math.log(first.points[x].mid / second.points[x].mid)) for x in common]
    return [math.exp(x0 + (x1 - x0) * y0 / (y0 - y1)) for (x0, y0), (x1, y1) in pairwise(gaps) if y0 * y1 < 0]
