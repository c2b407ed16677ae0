"""Where the sooner family of a pair changes, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable

from slmbench.analysis.crossover import Lead, leads_of
from slmbench.analysis.pairs import Pair
from slmbench.analysis.stats import Interval
from slmbench.report.pairing_words import PAIRING_NAMES

#: What is asked of a pair over the input length, and how an answer says it.
_QUESTIONS = {
    "ttft": ("reach their first token", "reaches its first token"),
    "e2e": ("answer in whole", "answers in whole"),
}


def crossover_sentences(pairs: Iterable[Pair]) -> list[str]:
    """Return for each lead of the pairs where the sooner family changes with the input.

    Nothing where fewer than three lengths were measured: two tell a direction, not a crossover.
    """
    known = list(pairs)
    return [
        crossover_sentence(lead) for metric in _QUESTIONS for lead in leads_of(known, metric) if len(lead.speedups) > 2
    ]


def crossover_sentence(lead: Lead, unit: str = "tokens in") -> str:
    """Return where the sooner family changes over a count of ``unit``, or that it does not as far as was seen."""
    encoder, decoder, speedups = lead.encoder, lead.decoder, lead.speedups
    where = f"{lead.where}; {PAIRING_NAMES[lead.pairing]}"
    together, alone = _QUESTIONS[lead.metric]
    found = lead.crossings()
    first, last = min(speedups), max(speedups)
    if not found:
        unsure = [str(x) for x, y in speedups.items() if not (y.low > 1 or y.high < 1)]
        if unsure:
            return (
                f"{encoder} and {decoder}: no crossover was seen between {first} and {last} {unit} ({where}), "
                f"and none is excluded: which {alone} sooner is not known at {', '.join(unsure)} {unit}"
            )
        sooner = encoder if speedups[first].mid > 1 else decoder
        return (
            f"{encoder} and {decoder} do not cross between {first} and {last} {unit} ({where}): "
            f"{sooner} {alone} sooner throughout"
        )
    places = ", ".join(_place(length, first, last, unit) for length in found)
    below = [y for x, y in speedups.items() if x < found[0].mid and (y.low > 1 or y.high < 1)]
    before, after = (decoder, encoder) if below[-1].high < 1 else (encoder, decoder)
    then = f": below, {before} is sooner, above, {after}" if len(found) == 1 else ""
    return f"{encoder} and {decoder} {together} equally soon at {places} ({where}){then}"


def _place(length: Interval, first: int, last: int, unit: str) -> str:
    low = f"{length.low:.0f}" if math.isfinite(length.low) else f"below {first}"
    high = f"{length.high:.0f}" if math.isfinite(length.high) else f"above {last}"
    return f"{length.mid:.0f} {unit} [{low}, {high}]"
