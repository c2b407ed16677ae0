"""Warm-up: full-shape generations until two in a row take the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Two generations agree when the time of the first token and the whole time differ by no more than this share.
STATIONARY_WITHIN = 0.05


@dataclass(frozen=True)
class WarmUpResult:
    """How a warm-up went."""

    generations: int
    stationary: bool
    #: Whole time of the last generation.
    last_ns: int


def warm_up(generation: Callable[[int], tuple[int, int]], most: int) -> WarmUpResult:
    """Run ``generation(index)`` until two in a row agree, at least twice and at most ``most`` times.

    ``generation`` returns the time to the first token and the whole time, both in ns.
    """
    before = generation(0)
    for index in range(1, max(most, 2)):
        now = generation(index)
        if all(_close(a, b) for a, b in zip(before, now, strict=True)):
            return WarmUpResult(index + 1, True, now[1])
        before = now
    return WarmUpResult(max(most, 2), False, before[1])


def _close(a: int, b: int) -> bool:
    return abs(a - b) <= STATIONARY_WITHIN * min(a, b)
