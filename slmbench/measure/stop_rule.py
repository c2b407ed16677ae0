"""When a case has been sampled enough: its figures so far, what counts, what drifts.

What a sample cannot say is None (or an empty array), never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmbench.records.schema import SampleRecord

Floats = NDArray[np.float64]

#: Percentile to the number of values it takes: with fewer, its 95 % order-statistic interval has no upper bound.
PERCENTILE_NEEDS: dict[int, int] = {50: 1, 90: 36, 99: 368}

#: A value this many interquartile ranges from the median is labelled an outlier.
OUTLIER_RANGES = 3.0

#: First third against last third of a case's samples: a change of the median beyond this share is drift.
DRIFT_BOUND = 0.05


def ttft_ns(sample: SampleRecord) -> float:
    """Return the time from the call of ``start`` to the first token on the host."""
    return float(sample.token_ns[0])


def itl_ns(sample: SampleRecord) -> Floats:
    """Return the gaps between consecutive tokens of a turn, ``[n − turns]``."""
    stamps = np.asarray(sample.token_ns, dtype=np.float64)
    return np.delete(np.diff(stamps), np.cumsum(sample.turn_tokens, dtype=np.int64)[:-1] - 1)


def tpot_ns(sample: SampleRecord) -> float | None:
    """Return the mean gap within turns, ``(t_last − t_first)/(n − 1)`` of a single one; None without a gap."""
    gaps = itl_ns(sample)
    return float(gaps.sum() / gaps.size) if gaps.size else None


@dataclass(frozen=True, slots=True)
class Brief:
    """What the stop rule needs of one sample of a case: 170 bytes, where the record takes ten times as many."""

    load: int
    round: int
    ttft_ns: float
    #: None for fewer than two tokens.
    tpot_ns: float | None
    #: In cores; 0 where it is unknown.
    foreign_load: float
    #: Whether the sample is labelled as disturbed by foreign activity.
    disturbed: bool


def brief(sample: SampleRecord) -> Brief:
    """Return what the stop rule needs of a sample."""
    return Brief(
        load=sample.load,
        round=sample.round,
        ttft_ns=ttft_ns(sample),
        tpot_ns=tpot_ns(sample),
        foreign_load=sample.conditions.foreign_load or 0.0,
        disturbed="foreign_load" in sample.flags,
    )


#: What is judged while measuring. Times in ns.
JUDGED: dict[str, Callable[[Brief], float | None]] = {"ttft": lambda s: s.ttft_ns, "tpot": lambda s: s.tpot_ns}


def counted(samples: Iterable[Brief]) -> list[Brief]:
    """Return the samples that count, in order: of a sample and its retake, the one with less foreign activity.

    The other stays on disk and in the label counts. Where the load is unknown the retake counts.
    """
    best: dict[tuple[int, int], Brief] = {}
    for sample in samples:
        place = (sample.load, sample.round)
        other = best.get(place)
        if other is None or sample.foreign_load <= other.foreign_load:
            best[place] = sample
    return list(best.values())


def by_load(samples: Iterable[Brief], metric: str) -> list[Floats]:
    """Return the metric's values, one array a load, loads in order; samples without a figure are left out.

    This is the shape that slmbench.analysis.stats takes. ``samples`` are one case's, as :func:`counted` gives them.
    """
    figure = JUDGED[metric]
    loads: dict[int, list[float]] = {}
    for sample in samples:
        value = figure(sample)
        if value is not None:
            loads.setdefault(sample.load, []).append(value)
    return [np.array(loads[load]) for load in sorted(loads)]


def outliers(samples: Sequence[Brief]) -> dict[int, tuple[str, ...]]:
    """Return, by index, the samples that lie far from the rest and the metrics they do so in ("ttft", "tpot").

    Far: more than ``OUTLIER_RANGES`` interquartile ranges from the median. A label for the reader; nothing is
    dropped for it.
    """
    found: dict[int, tuple[str, ...]] = {}
    for metric in ("ttft", "tpot"):
        values = np.array([np.nan if (v := JUDGED[metric](s)) is None else v for s in samples], dtype=np.float64)
        if np.count_nonzero(np.isfinite(values)) < 4:
            continue
        low, middle, high = np.nanpercentile(values, [25, 50, 75])
        for index in np.flatnonzero(np.abs(values - middle) > OUTLIER_RANGES * (high - low)):
            found[int(index)] = (*found.get(int(index), ()), metric)
    return found


def drift(samples: Sequence[Brief], metric: str) -> float | None:
    """Return last third over first third of the samples' medians, minus 1; None for fewer than nine samples."""
    values = [value for sample in samples if (value := JUDGED[metric](sample)) is not None]
    third = len(values) // 3
    if third < 3:
        return None
    return float(np.median(values[-third:]) / np.median(values[:third])) - 1
