"""How far a case's predictions are from the reference's, with intervals over windows of text.

The window is what varies: tokens of one window share their text, so that an interval over tokens would be too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis.stats import Interval, t_quantile
from slmbench.records.quality import CaseQuality

#: Fewer windows give no interval; fewer than MOST_T one from Student's t; more are resampled.
LEAST_WINDOWS = 10
MOST_T = 30
#: A p99 needs as many tokens as a p99 of times (see slmbench.analysis.metrics).
LEAST_TOKENS_P99 = 368
#: The upper bound of a KL reaches further, the more the windows lean. Chosen by benchmarks/quality_coverage.py: without
#: it the true KL was above the interval in 5 to 7 % of very skewed texts.
_FOR_SKEW = 0.2
_RESAMPLES = 4000
_SEED = 20260125

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """The quality of one case. A figure that was not measured is None; ``reason`` says why there is none at all."""

    documents: int = 0
    windows: int = 0
    tokens: int = 0
    text_digest: str = ""
    reference: str = ""
    reference_digest: str = ""
    #: Mean KL(reference, artifact) per token, in nats.
    kl: Interval | None = None
    #: Share of positions with the same best token.
    same_top1: Interval | None = None
    #: Change of the mean -log p of the text's own tokens against the reference, in nats per token; more is worse.
    log_perplexity_change: Interval | None = None
    p99_kl: float | None = None
    #: Perplexity of the reference on this text.
    reference_perplexity: float | None = None
    #: Median over windows of the greedy tokens before the first that differs from the reference's.
    free_same: float | None = None
    reason: str = ""

    @property
    def perplexity_change(self) -> Interval | None:
        """Return the change of the perplexity as a share: 0.01 is one percent worse."""
        change = self.log_perplexity_change
        return change and Interval(*(math.expm1(bound) for bound in (change.low, change.mid, change.high)))


def divergence_of(case: CaseQuality) -> Divergence:
    """Return the figures of one case."""
    if case.reason or not case.tokens.size:
        return Divergence(reason=case.reason or "not measured")
    with_logits = bool(np.all(np.isfinite(case.kl_sum)))
    free = case.free_same[case.free_same >= 0]
    tokens = int(case.tokens.sum())
    return Divergence(
        documents=int(np.unique(case.document).size),
        windows=case.tokens.size,
        tokens=tokens,
        text_digest=case.text_digest,
        reference=case.reference,
        reference_digest=case.reference_digest,
        kl=kl_per_token(case.kl_sum, case.tokens) if with_logits else None,
        same_top1=share_of_tokens(case.tokens - case.same_top1, case.tokens).complement,
        log_perplexity_change=per_token(case.artifact_loss - case.reference_loss, case.tokens) if with_logits else None,
        p99_kl=float(np.quantile(case.kl, 0.99)) if case.kl.size >= LEAST_TOKENS_P99 else None,
        reference_perplexity=math.exp(float(case.reference_loss.sum()) / tokens) if with_logits else None,
        free_same=float(np.median(free)) if free.size else None,
    )


def kl_per_token(sums: Floats, tokens: NDArray[np.int64]) -> Interval:
    """Return the mean KL per token over windows as :func:`per_token` does; below thirty on the scale of logarithms."""
    return per_token(sums, tokens, leaning=True)


def share_of_tokens(counts: Floats | NDArray[np.int64], tokens: NDArray[np.int64]) -> Interval:
    """Return a share of the tokens over windows as :func:`per_token` does; no bound is below 0 or above 1.

    A share and what is left of it have the same interval, so that a table and a comparison, of which one counts the
    tokens alike and the other those that differ, say the same. Where none of n tokens is counted, or all are, windows
    do not differ; then the exact bound for n tokens is given, ``1 - 0.025^(1/n)`` (Clopper and Pearson 1934), which
    takes them as independent.
    """
    found = per_token(counts, tokens)
    if not found.known:
        return found
    unseen = -math.expm1(math.log(0.025) / float(np.sum(tokens)))
    low = 1 - unseen if found.mid == 1 else max(found.low, 0.0)
    high = unseen if found.mid == 0 else min(found.high, 1.0)
    return Interval(low, found.mid, high)


def per_token(sums: Floats | NDArray[np.int64], tokens: NDArray[np.int64], *, leaning: bool = False) -> Interval:
    """Return the mean per token over windows, with its 95 % interval; bounds are NaN below ten windows.

    ``sums`` and ``tokens`` hold a figure for each window, ``[windows]``. ``leaning`` says that some windows are far
    above the others and none is below 0, as with a KL.
    """
    values, weights = np.asarray(sums, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    mid = float(values.sum() / weights.sum())
    count = values.size
    if count < LEAST_WINDOWS:
        return Interval(math.nan, mid, math.nan)
    error = _error(values, weights)
    if error == 0:
        return Interval(mid, mid, mid)
    if count < MOST_T:
        reach = t_quantile(0.975, count - 1) * error
        if leaning and values.min() > 0:
            # On the scale of logarithms: the plain interval held a KL in 89 to 91 % of texts.
            up = reach * (1 + _FOR_SKEW * max(0.0, _skewness(values, weights, mid)))
            return Interval(mid * math.exp(-reach / mid), mid, mid * math.exp(up / mid))
        return Interval(mid - reach, mid, mid + reach)
    low, high = _studentized(values, weights, mid)
    return Interval(mid - high * error, mid, mid - low * error)


def _error(values: Floats, weights: Floats) -> float:
    """Return the standard error of a ratio of sums."""
    count = values.size
    rest = values - weights * (values.sum() / weights.sum())
    return float(math.sqrt(count / (count - 1) * (rest**2).sum()) / weights.sum())


def _skewness(values: Floats, weights: Floats, mid: float) -> float:
    """Return how far windows lean towards large values: their third moment over the cube of their spread."""
    rest = values - weights * mid
    return float((rest**3).mean() / (rest**2).mean() ** 1.5)


def _studentized(values: Floats, weights: Floats, mid: float) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of (mean - true mean) / error, from windows drawn with replacement.

    Plain resampling gives too narrow intervals for skewed figures such as KL (Efron and Tibshirani 1993, chapter 12).
    """
    count = values.size
    drawn = np.random.default_rng(_SEED).integers(0, count, (_RESAMPLES, count))
    value, weight = values[drawn], weights[drawn]
    means = value.sum(axis=1) / weight.sum(axis=1)
    rest = value - weight * means[:, None]
    errors = np.sqrt(count / (count - 1) * (rest**2).sum(axis=1)) / weight.sum(axis=1)
    scores = (means - mid)[errors > 0] / errors[errors > 0]
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)
