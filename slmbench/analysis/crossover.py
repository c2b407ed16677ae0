"""Where two families cross: the input length at which the faster one changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.pairs import Pair
from slmbench.analysis.ratios import weighted
from slmbench.analysis.stats import Interval
from slmbench.analysis.weighted_sum import Summand, weighted_sum
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.terms import Family, Pairing


@dataclass(frozen=True)
class Curve:
    """Time to first token of one model on one engine over the input length; of several paths the fastest."""

    label: str
    model: str
    family: Family
    #: Engine and precision, as a :class:`Lead` names them.
    where: str
    #: Input tokens to the time in s.
    points: dict[int, Interval]


@dataclass(frozen=True)
class Crossover:
    """A length at which two curves cross."""

    #: In tokens; see :func:`crossings`.
    length: Interval
    #: Engine and precision; see :class:`Lead`.
    where: str


def curves_of(side: Side) -> list[Curve]:
    """Return the curves of a side, lengths rising."""
    found: dict[tuple[str, tuple[str, ...]], dict[int, tuple[Interval, SideCase]]] = {}
    for measured in side.cases.values():
        evidence = measured.evidence.get("ttft")
        if evidence is None or measured.case.workload.cache == "off":
            continue
        case, work = measured.case, measured.case.workload
        group = (
            measured.model.engine,
            case.device,
            f"{case.weight_precision}/{case.compute_precision}",
            work.more(),
        )
        points = found.setdefault((case.checkpoint, group), {})
        interval = evidence.interval()
        if work.input_tokens not in points or interval.mid < points[work.input_tokens][0].mid:
            points[work.input_tokens] = (interval, measured)
    return [
        Curve(
            label=(f"{side.arm}: " if side.arm else "") + f"{name}, {group[0]} {group[2]}",
            model=name,
            family=next(iter(points.values()))[1].model.family,
            where=f"{group[0]} {group[2]}" + (f", arm {side.arm}" if side.arm else ""),
            points={length: points[length][0] for length in sorted(points)},
        )
        for (name, group), points in found.items()
    ]


@dataclass(frozen=True)
class Lead:
    """How many times faster a pair's encoder-decoder is in one metric, over the input length."""

    metric: str
    encoder: str
    decoder: str
    #: Engine, precision, and what else tells it from the pair's other leads.
    where: str
    #: Input tokens to the speed-up, lengths rising.
    speedups: dict[int, Interval]
    #: What the speed-ups are made of (log ratios, decoder-only over encoder-decoder).
    parts: dict[int, list[Summand]]
    pairing: Pairing = "total"

    def line(self) -> dict[float, Interval]:
        """Return the speed-ups by length and, where loads are shared, points on the straight lines between them.

        Lengths that were measured in the same loads have their effect in common. So a point between two of them is
        made load by load, and its interval comes from how the loads differ: what they share is counted once.
        """
        points: dict[float, Interval] = {}
        for first, last in pairwise(self.speedups):
            points[first] = self.speedups[first]
            if _shared(self.parts[first], self.parts[last]):
                for step in range(1, _STEPS):
                    share = step / _STEPS
                    between = weighted(self.parts[first], 1 - share) + weighted(self.parts[last], share)
                    points[first * (last / first) ** share] = weighted_sum(between).interval()
        last = max(self.speedups)
        return points | {last: self.speedups[last]}

    def crossings(self) -> list[Interval]:
        """Return the lengths at which the sooner model changes, each with its 95 % interval.

        Only where the change is shown: one model is sooner at a measured length below, the other at one above, each
        with an interval that excludes 1. Medians that pass 1 between intervals that hold it show nothing.
        """
        sure = [(x, y.mid > 1) for x, y in self.speedups.items() if y.low > 1 or y.high < 1]
        changes = [(x0, x1) for (x0, first), (x1, second) in pairwise(sure) if first != second]
        return [found for found in crossings(self.line()) if any(x0 < found.mid < x1 for x0, x1 in changes)]


#: Points between two lengths.
_STEPS = 16


def _shared(first: Sequence[Summand], last: Sequence[Summand]) -> bool:
    return {part.owner for part in first} == {part.owner for part in last}


def leads_of(pairs: Iterable[Pair], metric: str) -> list[Lead]:
    """Return the leads of pairs in a metric that each of them has: one a pair, engine, precision and output length.

    A first token knows nothing of the answer's length: of several output lengths the longest stands for all.
    """
    groups: dict[tuple[str, ...], dict[int, Pair]] = {}
    for pair in pairs:
        case, work = pair.encoder.case, pair.encoder.case.workload
        where = f"{pair.engine} {case.weight_precision}/{case.compute_precision}"
        where += f", arm {pair.arm}" if pair.arm else ""
        where = where if metric == "ttft" else f"{work.output_tokens} out on {where}"
        if metric in pair.ratios and pair.ratios[metric].computes_cross_kv_again:
            where += f", {CROSS_KV_AGAIN}"
        key = (case.checkpoint, pair.decoder.case.checkpoint, pair.pairing, where, case.device, work.more())
        found = groups.setdefault(key, {})
        kept = found.get(work.input_tokens)
        if metric in pair.ratios and (kept is None or kept.encoder.case.workload.output_tokens < work.output_tokens):
            found[work.input_tokens] = pair
    return [
        Lead(
            metric,
            encoder,
            decoder,
            where,
            {x: found[x].ratios[metric].speedup for x in sorted(found)},
            {x: found[x].ratios[metric].parts for x in sorted(found)},
            next(iter(found.values())).pairing,
        )
        for (encoder, decoder, _, where, *_), found in groups.items()
        if found
    ]


def crossovers(pairs: Iterable[Pair]) -> list[Crossover]:
    """Return the input lengths at which a pair's first tokens come equally soon."""
    return [Crossover(length, lead.where) for lead in leads_of(pairs, "ttft") for length in lead.crossings()]


def crossings(speedups: Mapping[float, Interval]) -> list[Interval]:
    """Return the lengths at which a speed-up passes 1, each with its 95 % interval.

    ``speedups`` has them by length, rising. Between two lengths the figure and its bounds are straight lines on
    logarithmic axes. The interval holds the lengths about the crossing at which 1 is not excluded, as in Fieller's
    theorem; a side on which 1 is never excluded is open (NaN).
    """
    known = {x: y for x, y in speedups.items() if y.mid > 0}
    lengths = [math.log(x) for x in known]
    mids, lows, highs = ([math.log(getattr(y, name)) for y in known.values()] for name in ("mid", "low", "high"))
    bounds = _zeros(lengths, lows) + _zeros(lengths, highs)
    found = []
    for zero in _zeros(lengths, mids):
        below, above = [x for x in bounds if x < zero], [x for x in bounds if x > zero]
        low, high = max(below, default=math.nan), min(above, default=math.nan)
        found.append(Interval(math.exp(low), math.exp(zero), math.exp(high)))
    return found


def _zeros(x: Sequence[float], y: Sequence[float]) -> list[float]:
    steps = pairwise(zip(x, y, strict=True))
    return [x0 + (x1 - x0) * y0 / (y0 - y1) for (x0, y0), (x1, y1) in steps if y0 * y1 < 0]
