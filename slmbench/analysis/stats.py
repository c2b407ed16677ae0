"""Intervals, ratios and tests over loads: small pure functions on arrays, with their sources.

The unit that varies is the *load*: a model loaded twice differs until it is unloaded, and more samples of one
load do not shrink that. So every load gives one figure (a quantile of its samples), the figures are averaged over
loads on the log scale, and all uncertainty comes from how the loads differ. Times are positive; NaN means unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


#: Loads without which an interval says little: with fewer, more of them are what is missing.
LEAST_LOADS = 3

#: Bounds further off than this many times the figure say nothing of it: two loads that differ may give such ones.
TELLING = 10


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; bounds that cannot be known are NaN."""

    low: float
    mid: float
    high: float

    @property
    def known(self) -> bool:
        """Return whether there are bounds."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def telling(self) -> bool:
        """Return whether there are bounds worth showing: none is further off than :data:`TELLING` times the figure."""
        return self.low * TELLING >= self.mid and self.high <= TELLING * self.mid

    def inverse(self) -> Interval:
        """Return the interval of the reciprocal (positive figures only): a rate from a time."""
        return Interval(1 / self.high, 1 / self.mid, 1 / self.low)

    @property
    def complement(self) -> Interval:
        """Return the interval of 1 - the figure: what a share leaves."""
        return Interval(1 - self.high, 1 - self.mid, 1 - self.low)

    def scaled(self, factor: float) -> Interval:
        """Return the interval of the figure times a positive factor."""
        return Interval(self.low * factor, self.mid * factor, self.high * factor)


@dataclass(frozen=True)
class Estimate:
    """A figure on the log scale: its value, standard error and the degrees of freedom behind the error.

    ``error`` is NaN when nothing is known of it (a single load).
    """

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return ``exp(value ± t·error)`` with Student's t, on the scale of the figure itself."""
        reach = t_quantile(0.5 + confidence / 2, self.freedom) * self.error if self.error else 0.0
        return Interval(_exp(self.value - reach), _exp(self.value), _exp(self.value + reach))

    def p_value(self) -> float:
        """Return the two-sided p-value of "the value is 0" (a ratio of 1); 1.0 where the error is unknown."""
        if not math.isfinite(self.error):
            return 1.0
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the median of independent values and its distribution-free interval from order statistics.

    ``[x(k), x(n+1−k)]`` with the largest k for which ``P(Binomial(n, 1/2) < k) ≤ (1 − confidence)/2``; below six
    values there is no such k at 95 % and the bounds are NaN. Source: David & Nagaraja, Order Statistics, §7.1.

    Raises:
        ValueError: no values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if ordered.size == 0:
        raise ValueError("no values")
    from scipy.stats import binom

    k = int(binom.ppf((1 - confidence) / 2, ordered.size, 0.5))
    if binom.cdf(k - 1, ordered.size, 0.5) > (1 - confidence) / 2:
        k -= 1
    middle = float(np.median(ordered))
    if k < 1:
        return Interval(math.nan, middle, math.nan)
    return Interval(float(ordered[k - 1]), middle, float(ordered[-k]))


def level(loads: Sequence[ArrayLike], *, quantile: float = 0.5) -> Estimate:
    """Return the level of a case over its loads: the mean over loads of the log of each load's quantile.

    ``loads`` holds one array of positive values a load. The standard error is that of the hierarchical bootstrap
    in closed form, which exists because the figure is a mean over loads: drawing n loads with replacement, their
    samples taken whole, has variance ``(n−1)/n · s²/n``, and ``n/(n−1)`` undoes the shrinkage that makes plain
    bootstraps of few clusters too narrow. Drawing samples again within the drawn loads would count their noise
    twice (Davison & Hinkley 1997, §3.8). Loads that agree by accident are guarded against by the error that their
    samples alone imply. Degrees of freedom: loads − 1.

    Raises:
        ValueError: no loads, an empty load, or a value that is not positive and finite.
    """
    figures, inner = load_levels(loads, quantile=quantile)
    return level_of(figures, inner)


def load_levels(loads: Sequence[ArrayLike], *, quantile: float = 0.5) -> tuple[Floats, Floats]:
    """Return, one a load, the log of the quantile and the standard error its samples imply.

    Raises:
        ValueError: no loads, an empty load, or a value that is not positive and finite.
    """
    if not loads:
        raise ValueError("no loads")
    arrays = [np.ravel(load) for load in loads]
    sizes = np.array([one.size for one in arrays])
    if not sizes.all():
        raise ValueError("a load without values")
    logs = _logs(np.concatenate(arrays))
    begins = np.cumsum(sizes) - sizes
    # A load of one value is its own quantile, without an error.
    figures, errors = logs[begins], np.zeros(sizes.size)
    # Loads of one size at once: a large run has ten thousand of them.
    for size in set(sizes.tolist()) - {1}:
        places = np.flatnonzero(sizes == size)
        ordered = np.sort(logs[begins[places, None] + np.arange(size)], axis=1)
        below = int(quantile * (size - 1))
        above = min(below + 1, int(size) - 1)
        share = quantile * (size - 1) - below
        figures[places] = ordered[:, below] + share * (ordered[:, above] - ordered[:, below])
        errors[places] = quantile_errors(ordered, quantile)
    return figures, errors


def level_of(figures: ArrayLike, inner_errors: ArrayLike) -> Estimate:
    """Return the level from log figures and inner errors of :func:`load_levels`, as a baseline keeps them."""
    logs = np.asarray(figures, dtype=np.float64)
    inner = np.asarray(inner_errors, dtype=np.float64)
    if logs.size < 2:
        return Estimate(float(logs.mean()), math.nan, 0.0)
    variance = max(float(logs.var(ddof=1)), float(np.mean(inner**2)))
    return Estimate(float(logs.mean()), math.sqrt(variance / logs.size), logs.size - 1.0)


def quantile_errors(ordered: Floats, quantile: float) -> Floats:
    """Return the bootstrap standard errors of a quantile of sorted rows ``[n, values]``, without drawing.

    The resampled order statistic takes the i-th value with probability ``I(i/n) − I((i−1)/n)``, I the
    regularised incomplete beta function with parameters ``q(n+1)`` and ``(1−q)(n+1)``. Source: Maritz & Jarrett,
    JASA 73 (1978) 194–196.
    """
    weights = _order_weights(ordered.shape[1], quantile)
    mean = ordered @ weights
    errors: Floats = np.sqrt((ordered - mean[:, None]) ** 2 @ weights)
    return errors


@lru_cache(maxsize=256)
def _order_weights(count: int, quantile: float) -> Floats:
    from scipy.special import betainc

    edges = betainc(quantile * (count + 1), (1 - quantile) * (count + 1), np.arange(count + 1) / count)
    return np.diff(edges)


def hierarchical_interval(loads: Sequence[ArrayLike], *, confidence: float = 0.95, quantile: float = 0.5) -> Interval:
    """Return the level of a case (see :func:`level`) with its interval, on the scale of the values.

    With one load there is no telling how loads differ: the bounds are NaN.

    Raises:
        ValueError: no loads, an empty load, or a value that is not positive and finite.
    """
    return level(loads, quantile=quantile).interval(confidence)


def relative_half_width(interval: Interval) -> float:
    """Return half the interval's width as a share of its middle; infinite where the bounds are unknown."""
    return (interval.high - interval.low) / (2 * interval.mid) if interval.known else math.inf


def half_width_text(interval: Interval) -> str:
    """Return half the interval's width in words, as a share of its middle; beyond :data:`TELLING` it says nothing."""
    share = relative_half_width(interval)
    return f"+/-{share:.0%}" if share <= TELLING else f"more than +/-{TELLING:.0%}"


def ratio(base: Estimate, new: Estimate) -> Estimate:
    """Return the log ratio ``new / base`` of independent levels, with Welch's degrees of freedom."""
    return combined(new.value - base.value, [base, new], [1.0, 1.0])


def geometric_mean(ratios: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent log ratios: the geometric mean of the ratios.

    Raises:
        ValueError: no ratios.
    """
    if not ratios:
        raise ValueError("no ratios")
    share = 1 / len(ratios)
    return combined(sum(r.value for r in ratios) * share, ratios, [share] * len(ratios))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm, Scand. J. Statist. 6 (1979) 65–70)."""
    count = len(p_values)
    adjusted = [1.0] * count
    highest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def is_equivalent(interval: Interval, margin: float) -> bool:
    """Return whether a ratio is shown to lie within ``[1/(1+margin), 1+margin]``: its interval lies inside.

    A 95 % interval makes this two one-sided tests at 2.5 % each (Schuirmann, J. Pharmacokin. Biopharm. 15 (1987)).
    """
    return interval.known and interval.low >= 1 / (1 + margin) and interval.high <= 1 + margin


def detectable_effect(
    within: Estimate,
    *,
    alpha: float,
    power: float = 0.8,
    threshold: float = 0.0,
    shift_variance: float = 0.0,
    shift_freedom: float = math.inf,
    shift_noise: float = 0.0,
    freedom: float | None = None,
) -> float:
    """Return the smallest relative slowdown that the next such comparison calls one with probability ``power``.

    It is called one when it is significant at ``alpha`` (two-sided, after adjustment for the number of judgements) and
    its estimate lies above ``threshold`` (log scale). Neither this comparison's error nor the next one's is the true
    one, so both vary around it as their degrees of freedom say; the shift between runs (``shift_variance``) is the
    same estimate in both. ``shift_noise`` is how much of that variance is the noise of what it was estimated from: the
    test has it in its error, the runs do not differ by it. ``freedom`` is that of the test. Infinite where the error is
    unknown.
    """
    if not math.isfinite(within.error):
        return math.inf
    degrees = freedom if freedom is not None else within.freedom
    critical = t_quantile(1 - alpha / 2, degrees)
    now, later = (_mean_squares(prime, round(within.freedom, 1)) for prime in (2, 3))
    between = shift_variance / _mean_squares(5, round(shift_freedom, 1)) - shift_noise
    true = np.sqrt(within.error**2 / now + np.maximum(between, 0.0))
    if not np.any(true > 0):
        return math.expm1(threshold)
    significant = critical * np.sqrt(within.error**2 / now * later + shift_variance)
    # Each condition by itself, then the larger effect. Both at once, averaged over errors that are not known, ask for
    # more than it takes: such effects are seen in up to 87 %.
    bars: list[Floats | float] = [significant] if np.all(significant >= threshold) else [threshold, significant]
    effect = max(_beyond(bar, np.maximum(true, 1e-12), power) for bar in bars)
    return math.expm1(effect) if effect < 700 else math.inf


def _beyond(bar: Floats | float, deviation: Floats, power: float) -> float:
    """Return the mean of a normal figure that lies beyond the bar with that chance, averaged over both arrays."""
    from scipy.special import ndtr, ndtri

    def excess(figure: float) -> float:
        return float(ndtr((figure - bar) / deviation).mean()) - power

    # Where it would lie if all were averages: the true place is near.
    low = high = max(float(np.mean(bar) + ndtri(power) * np.sqrt(np.mean(deviation**2))), 1e-4)
    at_low = at_high = excess(low)
    while at_low >= 0:
        low, high, at_high = low * 0.8, low, at_low
        if low < 1e-5:
            return high
        at_low = excess(low)
    while at_high < 0:
        low, high, at_low = high, high * 1.25, at_high
        if high > 700:
            return math.inf
        at_high = excess(high)
    # The Illinois method (Dowell & Jarratt, BIT 11 (1971)), to a ten-thousandth: it needs fewer steps than halving.
    found = last = math.inf
    while high - low > 1e-4 and abs(found) > 1e-5:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        found = excess(middle)
        if found < 0:
            low, at_low, at_high = middle, found, at_high / (2 if last < 0 else 1)
        else:
            high, at_high, at_low = middle, found, at_low / (2 if last > 0 else 1)
        last = found
    return high if last >= 0 else low


#: Points that the chances of :func:`detectable_effect` are averaged over.
_POINTS = 1024


@lru_cache(maxsize=256)
def _mean_squares(prime: int, freedom: float) -> Floats:
    """Return quantiles of chi²/freedom at the points of a Halton sequence (of that prime)."""
    if not 0 < freedom < 1e6:
        return np.ones(_POINTS)
    from scipy.special import chdtri

    return np.asarray(np.maximum(chdtri(freedom, _halton(prime)) / freedom, 1e-9), dtype=np.float64)


@lru_cache
def _halton(prime: int) -> Floats:
    points, left, share = np.zeros(_POINTS), np.arange(1, _POINTS + 1), 1.0
    while left.any():
        share /= prime
        points += share * (left % prime)
        left //= prime
    return points


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: float) -> float:
    """Return Student's t quantile; NaN without degrees of freedom."""
    if not freedom > 0:
        return math.nan
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, probability) if freedom < 1e9 else ndtri(probability))


def _exp(value: float) -> float:
    return math.exp(max(value, -700.0)) if value < 700 else math.inf


def combined(value: float, parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Return an estimate of that value whose independent parts add up; freedom after Welch and Satterthwaite."""
    variances = [(weight * part.error) ** 2 for part, weight in zip(parts, weights, strict=True)]
    total = sum(variances)
    if not math.isfinite(total):
        return Estimate(value, math.nan, 0.0)
    if total == 0:
        return Estimate(value, 0.0, min(part.freedom for part in parts))
    spread = sum(variance**2 / part.freedom for variance, part in zip(variances, parts, strict=True))
    return Estimate(value, math.sqrt(total), total**2 / spread)


def _logs(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ValueError("a load without values")
    if not np.all(np.isfinite(array)) or np.any(array <= 0):
        raise ValueError("values must be positive and finite")
    return np.log(array)
