"""What is judged of quality, and how large a loss fails a check when nobody says otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis.divergence import kl_per_token, per_token, share_of_tokens
from slmbench.analysis.metrics import METRICS, SideCase
from slmbench.analysis.stats import Interval
from slmbench.analysis.task_scores import lost_interval
from slmbench.errors import BadInputError, nearest
from slmbench.records.quality import CaseQuality
from slmbench.records.sample_columns import Floats


@dataclass(frozen=True)
class Units:
    """A figure of one case over what varies: windows of text, or items of a task file."""

    #: ``[units]``: sums, and the tokens they are over (1 for an item).
    sums: Floats
    weights: Floats
    #: What was read, by name with the digest: figures of another one are not comparable.
    subject: dict[str, str]


@dataclass(frozen=True)
class QualityMetric:
    """A figure of quality, as a mean per token or item. All are better when smaller."""

    name: str
    title: str
    #: "nats", or "share" of tokens or items.
    unit: str
    #: The largest difference new - base that passes, in the unit (docs/methodology.md has the reasons).
    gate: float
    #: None where a case has no such figure.
    units_of: Callable[[SideCase], Units | None]
    #: The figure of one side with its 95 % interval; bounds are NaN below ten units.
    mean_of: Callable[[Units], Interval]


def text_subject(reference: str, reference_digest: str, text_digest: str) -> dict[str, str]:
    """Return what a quality on text is of: the digests of the reference and of the text, by what they are called."""
    return {f"reference {reference}": reference_digest, "text": text_digest}


def _of_text(sums: Callable[[CaseQuality], Floats]) -> Callable[[SideCase], Units | None]:
    def units(found: SideCase) -> Units | None:
        quality = found.quality
        if quality is None or not quality.tokens.size or not np.all(np.isfinite(sums(quality))):
            return None
        subject = text_subject(quality.reference, quality.reference_digest, quality.text_digest)
        return Units(sums(quality), quality.tokens.astype(np.float64), subject)

    return units


def _of_tasks(found: SideCase) -> Units | None:
    tasks = found.tasks
    if tasks is None or not tasks.scores.size:
        return None
    return Units(1 - tasks.scores, np.ones(tasks.scores.size), {f"task file {tasks.name}": tasks.digest})


def _as(mean: Callable[[Floats, NDArray[np.int64]], Interval]) -> Callable[[Units], Interval]:
    return lambda units: mean(units.sums, units.weights.astype(np.int64))


def _mean_lost(units: Units) -> Interval:
    """Return the share that is lost with the interval that the run's own table gives the score."""
    return lost_interval(1 - units.sums)


_METRICS = (
    QualityMetric(
        "kl", "KL divergence from the reference", "nats", 0.02, _of_text(lambda found: found.kl_sum), _as(kl_per_token)
    ),
    QualityMetric(
        "other_top1",
        "tokens with another top-1 than the reference",
        "share",
        0.02,
        _of_text(lambda found: (found.tokens - found.same_top1).astype(np.float64)),
        _as(share_of_tokens),
    ),
    QualityMetric(
        "log_perplexity",
        "log perplexity above the reference's",
        "nats",
        0.02,
        _of_text(lambda found: found.artifact_loss - found.reference_loss),
        _as(per_token),
    ),
    QualityMetric("task_loss", "task score lost", "share", 0.05, _of_tasks, _mean_lost),
)
QUALITY_METRICS: Mapping[str, QualityMetric] = {metric.name: metric for metric in _METRICS}
#: How a unit is written: a factor, and a name for the figure and for a difference of two.
_WRITTEN = {"nats": (1.0, " nats", " nats"), "share": (100.0, " %", " points")}
#: Smaller figures are written with an exponent.
_PLAIN = 1e-4


def judged_metric(name: str) -> str:
    """Return the name of a metric of speed or quality.

    Raises:
        BadInputError: there is none of that name.
    """
    known = [*METRICS, *QUALITY_METRICS]
    if name not in known:
        raise BadInputError(f"unknown metric '{name}'. Known: {', '.join(known)}.{nearest(name, known)}")
    return name


def unit_of(metric: str) -> str:
    """Return the unit of a metric of speed or quality."""
    return METRICS[metric].unit if metric in METRICS else QUALITY_METRICS[metric].unit


def written(figure: Interval, unit: str, *, difference: bool = False) -> str:
    """Return a figure of quality as text with its bounds: ``0.0312 [0.0240, 0.0381] nats``, ``+1.2 [?] points``."""
    factor, name, of_difference = _WRITTEN[unit]
    sizes = [abs(bound) * factor for bound in (figure.mid, figure.low, figure.high) if math.isfinite(bound)]
    largest = max(sizes, default=0.0)
    style = f".{max(0, 2 - math.floor(math.log10(largest)))}f" if largest >= _PLAIN else ".2g" if largest else ".0f"
    mid, low, high = (f"{bound * factor:{style}}" for bound in (figure.mid, figure.low, figure.high))
    sign = "+" if difference and figure.mid > 0 else ""
    return f"{sign}{mid} [{f'{low}, {high}' if figure.known else '?'}]{of_difference if difference else name}"


def written_gate(gate: float, metric: str) -> str:
    """Return a gate as text: ``5 %`` of a time, ``0.02 nats``, ``2 points`` of tokens."""
    if metric in METRICS:
        return f"{gate * 100:g} %"
    factor, _, name = _WRITTEN[QUALITY_METRICS[metric].unit]
    return f"{gate * factor:g}{name}"
