"""What pictures cost, in sentences: their share of the first token, who leads at how many of them, later turns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.pairs import Pair, pairs_of, precision_of
from slmbench.analysis.seen_pictures import later_vision_s, picture_leads, vision_share
from slmbench.analysis.stats import Interval
from slmbench.records.sample_arrays import RunColumns
from slmbench.report.crossover_sentences import crossover_sentence
from slmbench.report.text_table import bracketed, number

HOLDS_PREPARATION = "preparing the pixels is part of it"
#: Cases that are no pair and that a sentence speaks of; the table has all.
_MOST_CASES = 4


def picture_sentences(run: RunColumns, sides: Sequence[Side]) -> list[str]:
    """Return what the figures say of pictures; nothing for a run without any."""
    said: list[str] = []
    for side in sides:
        seen = [found for found in side.cases.values() if found.case.workload.images and "vision" in found.evidence]
        if not seen:
            continue
        pairs = [pair for pair in pairs_of(side) if pair.encoder.case.workload.images]
        told = {found.case.key for pair in pairs for found in (pair.encoder, pair.decoder)}
        alone = [found for found in seen if found.case.key not in told and not found.derived_from]
        said += [_of_pair(run, pair) for pair in pairs if not pair.encoder.derived_from]
        said += [_of_cases(run, [found]) for found in alone[:_MOST_CASES]]
        said += [line for found in seen for line in _of_later_turns(run, found)]
        said += [crossover_sentence(lead, "image tokens") for lead in picture_leads(pairs) if len(lead.speedups) > 2]
    return said


def _of_pair(run: RunColumns, pair: Pair) -> str:
    return _of_cases(run, [pair.encoder, pair.decoder])


def _of_cases(run: RunColumns, cases: Sequence[SideCase]) -> str:
    """Return how long the first token takes with pictures, and how much of that the pictures are."""
    case, work = cases[0].case, cases[0].case.workload
    figures = " and ".join(f"{_figure(run, found)} by {found.case.checkpoint}" for found in cases)
    before = _range([found.evidence["preprocess"].interval().mid for found in cases if "preprocess" in found.evidence])
    prepared = f"preparing the pixels comes before it and takes {before}" if before else HOLDS_PREPARATION
    tokens = cases[0].model.image_tokens
    return (
        f"With {work.seen} before {work.input_tokens} tokens of text the first token takes {figures} "
        f"({case.backend} {precision_of(case)}, {tokens} image tokens; {prepared})"
    )


def _figure(run: RunColumns, found: SideCase) -> str:
    ttft = found.evidence["ttft"].interval()
    share = vision_share(run.figures_of(found.case.key))
    what = "the picture" if found.case.workload.images == 1 else "the pictures"
    part = f", of which {_percent(share.interval())} reading {what}" if share else ""
    return f"{number(ttft.mid * 1e3)} ms{bracketed(ttft.scaled(1e3))}{part}"


def _percent(share: Interval) -> str:
    # A share is no more than the whole, however little is known of it.
    between = f" [{100 * share.low:.0f}, {100 * min(1.0, share.high):.0f}]" if share.telling else ""
    return f"{100 * share.mid:.0f} %{between}"


def _range(seconds: Sequence[float]) -> str:
    known = sorted(number(one * 1e3, 2) for one in seconds if math.isfinite(one))
    return f"{' and '.join(dict.fromkeys(known))} ms" if known else ""


def _of_later_turns(run: RunColumns, found: SideCase) -> list[str]:
    """Return whether later turns of a conversation pay for its picture again, as it was measured."""
    later = later_vision_s(run.figures_of(found.case.key))
    if later is None or "turn_ttft" not in found.evidence:
        return []
    first, then = found.evidence["ttft"].interval().scaled(1e3), found.evidence["turn_ttft"].interval().scaled(1e3)
    case, work = found.case, found.case.workload
    pays = f"pay for the picture again, {number(later * 1e3)} ms in all" if later > 0 else "do not pay for the picture"
    return [
        f"Later turns of {case.checkpoint} {pays}: their first token comes after {number(then.mid)} "
        f"ms{bracketed(then)}, that of the first turn after {number(first.mid)} ms{bracketed(first)} "
        f"({work.turns} turns of {work.added} more, {case.backend} {precision_of(case)})"
    ]
