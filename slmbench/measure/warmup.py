"""Warm-up: generations of the full prompt until they no longer become faster.

Cold caches, first allocations and lazy choices of kernels all make the early generations slower. So a generation that
is no faster than the one before shows that nothing is left to warm up; on a restless machine, two alike would be an
accident. Whether a first sample is then like later ones, benchmarks/first_samples.py measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slmbench.case import Workload

#: A generation is faster than the one before where its first token or its whole took less by more than this share.
FASTER_BY = 0.05
#: Tokens of a warm-up's generation: enough to see whether steps have become steady.
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class WarmUpResult:
    """How a warm-up went."""

    generations: int
    #: False where the last was still faster than the one before.
    stationary: bool
    #: Whole time of the last generation.
    last_ns: int


def warm_up(
    generation: Callable[[int], tuple[int, int]], most: int, before: tuple[int, int] | None = None
) -> WarmUpResult:
    """Run ``generation(index)`` until it is no faster than before, at most ``most`` times (at least twice, or once).

    ``generation`` returns the time to the first token and the whole time, both in ns. ``before`` is what an earlier
    one of the same shape took, the first inference: where the next is no faster, one is enough.
    """
    least = 1 if before else 2
    now = (0, 0)
    for index in range(max(most, least)):
        now = generation(index)
        if before and not any(_faster(new, old) for old, new in zip(before, now, strict=True)):
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


def _faster(new: int, old: int) -> bool:
    return old - new > FASTER_BY * new
