"""What a pair has in common, in words: what a sentence about it says, what it does not, and what it costs."""

from __future__ import annotations

import math

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


def pairing_words(pair: Pair) -> str:
    """Return what the two of a pair have in common and what was not compared, then memory and load time of both."""
    words = {"total": _total, "decoder": _decoder, "quality": _quality}[pair.pairing](pair)
    return f"Pairing {pair.pairing}: {words}{_held(pair)}"


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


def _held(pair: Pair) -> str:
    """Return memory and load time of both, where they were measured."""
    sides, parts = (pair.encoder, pair.decoder), []
    memory = [one.peak_memory_bytes for one in sides]
    if all(map(math.isfinite, memory)):
        parts.append(f"memory {size(memory[0])} against {size(memory[1])}")
    loads = [one.evidence["load"].interval() for one in sides if "load" in one.evidence]
    if len(loads) == len(sides):
        parts.append(f"loading takes {_seconds(loads[0])} s against {_seconds(loads[1])} s")
    # The decoder-only model's figures can be of several backends, each the fastest at something.
    backend = pair.decoder.case.backend
    whose = f" (the second by {backend})" if backend != pair.encoder.case.backend else ""
    return f"; {', '.join(parts)}{whose}" if parts else ""


def _seconds(found: Interval) -> str:
    return f"{found.mid:.2f}" if found.mid < 10 else f"{found.mid:.0f}"
