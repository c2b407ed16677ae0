"""What a pair has in common, in words: what a sentence about it says, what it does not, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slmbench.analysis.pairs import QUALITY_MARGIN, Pair
from slmbench.analysis.stats import Interval
from slmbench.report.text_table import parameters, size
from slmbench.terms import Pairing

#: A pairing's short name in a sentence.
PAIRING_NAMES: dict[Pairing, str] = {
    "total": "equal parameters",
    "decoder": "equal decoders",
    "quality": "equal task scores",
}


def pairing_words(pairs: Sequence[Pair]) -> str:
    """Return what the two of a pair have in common and what was not compared, then memory and load time.

    ``pairs`` are the same two models on one engine, at several lengths.
    """
    words = {"total": _total, "decoder": _decoder, "quality": _quality}[pairs[0].pairing](pairs[0])
    return f"Pairing {pairs[0].pairing}: {words}{_held(pairs)}"


def _total(_pair: Pair) -> str:
    return "equal parameters, not equal decoders; nothing is said of quality"


def _decoder(pair: Pair) -> str:
    first, second = pair.encoder.model.parameter_count, pair.decoder.model.parameter_count
    more = f"{parameters(first)} parameters against {parameters(second)}, {first / second:.2f}x as many"
    return f"equal decoders, not equal sizes ({more}); nothing is said of quality"


def _quality(pair: Pair) -> str:
    found, scores = pair.score_difference, [one.tasks.scores for one in (pair.encoder, pair.decoder) if one.tasks]
    both = " and ".join(f"{values.mean():.3f}" for values in scores)
    shown = f"[{found.low:+.3f}, {found.high:+.3f}] is within +-{QUALITY_MARGIN:g}"
    return (
        f"equal task scores ({both} over {scores[0].size} items; the difference {found.mid:+.3f} {shown}), not equal "
        "sizes; nothing is said of other tasks"
    )


def _held(pairs: Sequence[Pair]) -> str:
    """Return the memory of both, at most over the lengths, and the time until they are ready, where both are known."""
    parts = []
    held = [(pair.encoder.peak_memory_bytes, pair.decoder.peak_memory_bytes) for pair in pairs]
    known = [both for both in held if all(map(math.isfinite, both))]
    if known:
        first, second = (max(values) for values in zip(*known, strict=True))
        parts.append(f"memory {'up to ' if len(known) > 1 else ''}{size(first)} against {size(second)}")
    sides = (pairs[0].encoder, pairs[0].decoder)
    ready = [one.evidence["ready"].interval() for one in sides if "ready" in one.evidence]
    if len(ready) == len(sides):
        parts.append(f"ready after {_seconds(ready[0])} s against {_seconds(ready[1])} s")
    # The decoder-only model's figures can be of several backends, each the fastest at something.
    backends = dict.fromkeys(pair.decoder.case.backend for pair in pairs)
    whose = (
        f" (the second of each by {' and '.join(backends)})" if [*backends] != [pairs[0].encoder.case.backend] else ""
    )
    return f"; {', '.join(parts)}{whose}" if parts else ""


def _seconds(found: Interval) -> str:
    return f"{found.mid:.2f}" if found.mid < 10 else f"{found.mid:.0f}"
