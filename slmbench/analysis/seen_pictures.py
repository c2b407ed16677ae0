"""What pictures cost: their share of the first token, and how the number of their tokens decides who leads."""

from __future__ import annotations

from collections.abc import Iterable

from slmbench.analysis.crossover import Lead
from slmbench.analysis.metrics import NANO, Evidence, Metric, evidence_of, phase
from slmbench.analysis.pairs import Pair, precision_of
from slmbench.records.sample_arrays import CaseFigures

#: A share, not a time: it is shown and never judged.
_SHARE = Metric("vision_share", "pictures' share of ttft", "", lambda c: phase("vision")(c) / (c.first_ns * NANO))


def vision_share(figures: CaseFigures) -> Evidence | None:
    """Return which share of a case's time to the first token its pictures take, or None where there are none."""
    return evidence_of(_SHARE, figures)


def later_vision_s(figures: CaseFigures) -> float | None:
    """Return the mean time that later turns of a conversation spent on its pictures; None without turns or pictures."""
    samples = figures.samples
    later = samples.phases_ns.get("later_vision") if samples is not None else None
    return None if later is None else float(later.mean()) * NANO


def picture_leads(pairs: Iterable[Pair]) -> list[Lead]:
    """Return how many times sooner each pair's encoder-decoder answers in whole, over the tokens of its pictures.

    One lead an output length; a text alone is 0 image tokens and lies on no logarithmic axis, so it is left out.
    """
    groups: dict[tuple[str, ...], dict[int, Pair]] = {}
    for pair in pairs:
        case, work, tokens = pair.encoder.case, pair.encoder.case.workload, pair.encoder.model.image_tokens
        if not tokens or "e2e" not in pair.ratios or work.turns > 1 or tokens != pair.decoder.model.image_tokens:
            continue
        where = f"{work.input_tokens} tokens of text, {work.output_tokens} out on {pair.engine} {precision_of(case)}"
        where += f", arm {pair.arm}" if pair.arm else ""
        names = (case.checkpoint, pair.decoder.case.checkpoint, pair.pairing, where, case.device)
        groups.setdefault(names, {})[tokens] = pair
    return [
        Lead(
            "e2e",
            encoder,
            decoder,
            where,
            {x: found[x].ratios["e2e"].speedup for x in sorted(found)},
            {x: found[x].ratios["e2e"].parts for x in sorted(found)},
            next(iter(found.values())).pairing,
        )
        for (encoder, decoder, _, where, _), found in groups.items()
    ]
