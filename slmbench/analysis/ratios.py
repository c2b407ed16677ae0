"""Ratios of two cases' figures, and means over cases: paired where they were measured side by side or in one load."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis import stats
from slmbench.analysis.metrics import Evidence
from slmbench.analysis.weighted_sum import Summand, weighted_sum
from slmbench.records.sample_columns import Floats

Rounds = NDArray[np.int64]
#: Fewer pairs of loads than this cannot carry an interval of their own.
MINIMUM_PAIRS = 3
#: Decimals of a log in a baseline's file: a millionth of a time.
LOG_DECIMALS = 6


def log_ratio(base: Evidence, new: Evidence, *, interleaved: bool) -> stats.Estimate:
    """Return the log ratio ``new / base``.

    It is taken round by round where the loads lived side by side, load by load where both were measured in the same
    loads, else of the levels. ``interleaved`` says that both come from one run, so that equal round numbers mean
    neighbours in time.
    """
    return weighted_sum(ratio_parts(base, new, interleaved=interleaved))


def mean_ratio(pairs: Iterable[tuple[Evidence, Evidence]], *, interleaved: bool) -> stats.Estimate:
    """Return the mean of the log ratios ``new / base`` over cases; cases that shared loads share their effect.

    Raises:
        ValueError: no cases.
    """
    return weighted_sum(mean_parts([ratio_parts(base, new, interleaved=interleaved) for base, new in pairs]))


def mean_parts(ratios: list[list[Summand]]) -> list[Summand]:
    """Return the parts of the mean of sums."""
    return [part for ratio in ratios for part in weighted(ratio, 1 / len(ratios))]


def weighted(parts: Iterable[Summand], weight: float) -> list[Summand]:
    """Return parts with their weights times ``weight``."""
    return [replace(part, weight=part.weight * weight) for part in parts]


def ratio_parts(base: Evidence, new: Evidence, *, interleaved: bool) -> list[Summand]:
    """Return the log ratio ``new / base`` as parts, for sums in which other cases of the same loads take part."""
    if interleaved:
        pairs = _pairs_of_loads(base, new)
        if len(pairs) >= MINIMUM_PAIRS:
            numbers = tuple((old, young) for old, young, _, _ in pairs)
            logs, inner = stats.load_levels([np.exp(np.log(young) - np.log(old)) for _, _, old, young in pairs])
            return [Summand((_owner(base), _owner(new)), numbers, logs, inner)]
        within = _within_loads(base, new)
        if within is not None:
            return [within]
    return [_part(new, 1.0), _part(base, -1.0)]


def _owner(evidence: Evidence) -> Hashable:
    # A case with loads of its own shares them with nobody: not with another case, nor with another metric's.
    return evidence.shared_loads or id(evidence)


def _part(evidence: Evidence, weight: float) -> Summand:
    numbers = evidence.loads if evidence.loads is not None else np.arange(evidence.logs.size)
    return Summand(_owner(evidence), tuple(numbers.tolist()), evidence.logs, evidence.inner_errors, weight)


def _within_loads(base: Evidence, new: Evidence) -> Summand | None:
    """Return the ratio of two cases that were measured in the same loads, one figure a load; None where they were not.

    What a load does to both cancels.
    """
    if base.shared_loads != new.shared_loads:
        return None
    if base.shared_loads is None:
        # A baseline keeps no rounds. Held against the run that it was made of, its loads are that run's, in order.
        if (base.rounds is None) == (new.rounds is None):
            return None
        # They are the same samples: what they scatter by is in both.
        common, old, young = np.intersect1d(np.arange(base.logs.size), np.arange(new.logs.size), return_indices=True)
        errors = np.zeros(common.size)
    elif base.loads is None or new.loads is None:
        return None
    else:
        common, old, young = np.intersect1d(base.loads, new.loads, return_indices=True)
        errors = np.hypot(base.inner_errors[old], new.inner_errors[young])
    if common.size < MINIMUM_PAIRS:
        return None
    owner = ("within", base.shared_loads, id(base), id(new))
    change = new.logs[young] - base.logs[old]
    # What a baseline's file rounds off is no change.
    return Summand(owner, tuple(common.tolist()), np.where(np.abs(change) <= 10.0**-LOG_DECIMALS, 0.0, change), errors)


def _pairs_of_loads(base: Evidence, new: Evidence) -> list[tuple[int, int, Floats, Floats]]:
    """Return the loads that shared their rounds, with their values aligned by round; empty unless it is one to one."""
    if base.rounds is None or new.rounds is None:
        return []
    spans = [(int(rounds.min()), int(rounds.max())) for _, rounds, _ in new.rounds]
    pairs, taken = [], set()
    for old_number, old_rounds, old_values in base.rounds:
        first, last = int(old_rounds.min()), int(old_rounds.max())
        best: tuple[int, Floats, Floats] | None = None
        for (number, young_rounds, young_values), (begin, end) in zip(new.rounds, spans, strict=True):
            if end < first or begin > last:
                continue
            old_at, young_at = _common(old_rounds, young_rounds)
            if old_at.size and (best is None or old_at.size > best[1].size):
                best = (number, old_values[old_at], young_values[young_at])
        if best is None:
            continue
        if best[0] in taken:
            return []
        taken.add(best[0])
        pairs.append((old_number, *best))
    return pairs if len(pairs) == min(len(base.rounds), len(new.rounds)) else []


def _common(rounds: Rounds, others: Rounds) -> tuple[Rounds, Rounds]:
    """Return where the rounds that both have are in each."""
    if np.array_equal(rounds, others) and np.all(rounds[1:] > rounds[:-1]):
        # Neighbours, as loads of one run mostly are: sorting them again takes most of a large table's time.
        places = np.arange(rounds.size)
        return places, places
    _, at, others_at = np.intersect1d(rounds, others, return_indices=True)
    return at, others_at
