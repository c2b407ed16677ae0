"""What is judged of quality, and how large a loss fails a check when nobody says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slmbench.records.quality import CaseQuality
from slmbench.records.sample_arrays import Floats


@dataclass(frozen=True)
class QualityMetric:
    """A figure of quality, as a mean per token. All are better when smaller."""

    name: str
    title: str
    #: "nats", or "share" of tokens.
    unit: str
    #: The largest difference new - base that passes, in the unit (docs/methodology.md has the reasons).
    gate: float
    #: Sum of each window, ``[windows]``; NaN where the engine gives tokens only.
    of_windows: Callable[[CaseQuality], Floats]


_METRICS = (
    QualityMetric("kl", "KL divergence from the reference", "nats", 0.02, lambda found: found.kl_sum),
    QualityMetric(
        "other_top1",
        "tokens with another top-1 than the reference",
        "share",
        0.02,
        lambda found: (found.tokens - found.same_top1).astype(float),
    ),
    QualityMetric(
        "log_perplexity",
        "log perplexity above the reference's",
        "nats",
        0.02,
        lambda found: found.artifact_loss - found.reference_loss,
    ),
)
QUALITY_METRICS: Mapping[str, QualityMetric] = {metric.name: metric for metric in _METRICS}
