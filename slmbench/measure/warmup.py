"""Warm-up: generations of the full prompt until two in a row take the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slmbench.case import Workload

#: Two generations agree when the time of the first token and the whole time differ by no more than this share.
STATIONARY_WITHIN = 0.05
#: Tokens of a warm-up's generation: enough to see whether steps have become steady.
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class WarmUpResult:
    """How a warm-up went."""

    generations: int
    stationary: bool
    #: Whole time of the last generation.
    last_ns: int


def warm_up(
    generation: Callable[[int], tuple[int, int]], most: int, before: tuple[int, int] | None = None
) -> WarmUpResult:
    """Run ``generation(index)`` until two in a row agree, at most ``most`` times (at least twice, or once).

    ``generation`` returns the time to the first token and the whole time, both in ns. ``before`` is what an earlier
    one of the same shape took, the first inference: where the next agrees with it, nothing is left to warm up.
    """
    least = 1 if before else 2
    now = (0, 0)
    for index in range(max(most, least)):
        now = generation(index)
        if before and all(_close(a, b) for a, b in zip(before, now, strict=True)):
            return WarmUpResult(index + 1, True, now[1])
        before = now
    return WarmUpResult(max(most, least), False, now[1])


def beginning(work: Workload) -> Workload | None:
    """Return what a warm-up generates of a workload: whole prompts, but only so many steps as show a steady time.

    None where it takes the whole: later turns read more than the first, and later steps without a cache as well.
    """
    if work.turns > 1 or work.cache == "off":
        return None
    return work.model_copy(update={"output_tokens": min(WARM_UP_TOKENS, work.output_tokens)})


def _close(a: int, b: int) -> bool:
    return abs(a - b) <= STATIONARY_WITHIN * min(a, b)
