"""Sums and means of several cases' figures, in which what a load does to all of them is counted once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from slmbench.analysis.stats import Estimate, Floats, combined, level_of


@dataclass(frozen=True)
class Summand:
    """What one case adds to a sum of log levels: a figure a load."""

    #: Whose loads these are: parts of equal owners were measured in the same loads where the load numbers are equal.
    owner: Hashable
    loads: tuple[Hashable, ...]
    logs: Floats
    inner_errors: Floats
    weight: float = 1.0


def weighted_sum(parts: Sequence[Summand]) -> Estimate:
    """Return the sum of weight times level over parts; what parts share of a load is counted once.

    Parts of one owner share the effect of each load. So their figures are put together load by load first, and the
    error comes from how these sums differ over loads, however alike the parts are within one. (Where every part has
    every load that is the plain variance of a mean over loads; where some lack loads it is the sum of squared
    influences, as for clusters: Liang & Zeger, Biometrika 73 (1986) 13-22.) Parts of different owners are independent.
    The parts are the ones that were chosen, not a draw from all possible ones: only their errors add up.

    Raises:
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("no figures")
    families: dict[Hashable, list[Summand]] = {}
    for part in parts:
        families.setdefault(part.owner, []).append(part)
    sums = [_sum_of_family(family) for family in families.values()]
    return combined(sum(one.value for one in sums), sums, [1.0] * len(sums))


def _sum_of_family(parts: Sequence[Summand]) -> Estimate:
    """Return the sum over parts that share loads; freedom is that of the parts, by what each adds to the variance."""
    levels = [level_of(part.logs, part.inner_errors) for part in parts]
    value = sum(part.weight * one.value for part, one in zip(parts, levels, strict=True))
    if any(not math.isfinite(one.error) for one in levels):
        return Estimate(value, math.nan, 0.0)
    if len(parts) == 1:
        return Estimate(value, abs(parts[0].weight) * levels[0].error, levels[0].freedom)
    influences: dict[Hashable, float] = {}
    guard = 0.0
    for part, one in zip(parts, levels, strict=True):
        count = part.logs.size
        # The root undoes the shrinkage of a variance about its own mean.
        scale = part.weight / count * math.sqrt(count / (count - 1))
        for load, log in zip(part.loads, (part.logs - one.value).tolist(), strict=True):
            influences[load] = influences.get(load, 0.0) + scale * log
        guard += float(np.sum((part.weight * part.inner_errors / count) ** 2))
    variance = max(sum(influence**2 for influence in influences.values()), guard)
    own = [(part.weight * one.error) ** 2 for part, one in zip(parts, levels, strict=True)]
    freedoms = [one.freedom for one in levels]
    weighed = sum(a * b for a, b in zip(own, freedoms, strict=True))
    return Estimate(value, math.sqrt(variance), weighed / sum(own) if sum(own) > 0 else min(freedoms))
