"""What a run says of its pairs, in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from slmbench.analysis.crossover import Lead, crossings, leads_of
from slmbench.analysis.front import fronts_of
from slmbench.analysis.leaders import leaders_of
from slmbench.analysis.metrics import METRICS, Side, SideCase
from slmbench.analysis.pairs import Pair, PairRatio, pairs_of, precision_of, sides_of, with_own_figure
from slmbench.analysis.ratios import log_ratio
from slmbench.analysis.stats import Interval
from slmbench.case import Case
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.records.sample_arrays import RunColumns, columns_of
from slmbench.records.schema import Claim, Run
from slmbench.report.answers import answer_sentences
from slmbench.report.leader_sentences import leader_sentences
from slmbench.report.speed_against_quality import front_sentences
from slmbench.report.text_table import bounds, parameters

#: How the sentence of a pair says faster, slower and equal.
_WORDS = {
    "ttft": ("reaches its first token", "sooner", "later", "as soon"),
    "turn_ttft": ("reaches the first token of later turns", "sooner", "later", "as soon"),
    "tpot": ("decodes", "faster", "slower", "as fast"),
    "e2e": ("answers in whole", "sooner", "later", "as soon"),
}


def run_sentences(run: RunColumns) -> list[str]:
    """Return how each pair compares, or who leads where models are no pair, at which input length families change
    places, what that says of claims, and what nothing else beats on speed and quality.
    """
    sides = sides_of(run)
    crossed = [line for side in sides for line in crossover_sentences(pairs_of(side))]
    fronts = front_sentences(front for side in sides for front in fronts_of(side))
    claims = [*claim_sentences(run, sides), *ablation_sentences(sides)]
    leads = leader_sentences(leader for side in sides for leader in leaders_of(side))
    return [*pair_sentences(run), *leads, *crossed, *claims, *fronts, *answer_sentences(run)]


_NOUNS = {"ttft": "time to first token", "tpot": "time per token", "e2e": "time of the whole answer"}


def claim_sentences(run: RunColumns, sides: Sequence[Side]) -> list[str]:
    """Return for each claim of the run's suite what its pairs say of it, then the published figures next to ours.

    A pair is asked at each of its workloads; the claim holds where the whole 95 % interval is at least the claimed
    factor, and fails where the whole interval is below it. Nothing is said of cases without a K/V cache here.
    """
    sentences = []
    for claim in run.record.claims:
        groups: dict[tuple[str, ...], list[Pair]] = {}
        for side in sides:
            for pair in with_own_figure(pairs_of(side), claim.metric):
                groups.setdefault(_group(pair), []).append(pair)
        reported = [*(_verdict(claim, pairs) for pairs in groups.values()), *_figures(claim, sides)]
        if reported and claim.note:
            reported[-1] += f". {claim.note}"
        sentences += reported
    return sentences


def _group(pair: Pair) -> tuple[str, ...]:
    case = pair.encoder.case
    return case.checkpoint, pair.decoder.case.checkpoint, pair.engine, case.device, precision_of(case), pair.arm or ""


def _verdict(claim: Claim, pairs: Sequence[Pair]) -> str:
    """Return how many of a pair's workloads show the claimed factor, and between what the factors lie."""
    speedups = [pair.ratios[claim.metric].speedup for pair in pairs]
    known = [found for found in speedups if found.known]
    holds = sum(found.low >= claim.speedup for found in known)
    fails = sum(found.high < claim.speedup for found in known)
    counts = f"it holds at {holds} of {len(pairs)} workloads, fails at {fails}"
    open_ = len(pairs) - holds - fails
    counts += f", and at {open_} the interval does not tell" if open_ else ""
    low, high = min(pairs, key=_middle(claim)), max(pairs, key=_middle(claim))
    span = _at(claim, low) + (f" to {_at(claim, high)}" if len(pairs) > 1 else "")
    first, arm = pairs[0].encoder.case, f", arm {pairs[0].arm}" if pairs[0].arm else ""
    return (
        f"'{claim.says}' ({claim.source}), a factor of {claim.speedup:.2f} in {_NOUNS[claim.metric]}: "
        f"{first.checkpoint} against {pairs[0].decoder.case.checkpoint} on {pairs[0].engine} {precision_of(first)}, "
        f"{first.device}{arm}: {span}; {counts}{_more_work([pair.ratios[claim.metric] for pair in pairs], pairs[0])}"
    )


def _middle(claim: Claim) -> Callable[[Pair], float]:
    return lambda pair: pair.ratios[claim.metric].speedup.mid


def _at(claim: Claim, pair: Pair) -> str:
    work, found = pair.encoder.case.workload, pair.ratios[claim.metric].speedup
    return f"{found.mid:.2f}x{bounds(found, 2, '')} at {work.input_tokens} in / {work.output_tokens} out"


def _figures(claim: Claim, sides: Sequence[Side]) -> Iterator[str]:
    """Yield the published figures next to ours of the same shape, at the shortest and the longest input."""
    if not claim.figures_ms:
        return
    published = ", ".join(f"{figure:g} ms on {device.upper()}" for device, figure in claim.figures_ms.items())
    ours = [
        case
        for side in sides
        for case in side.cases.values()
        if case.case.checkpoint == claim.figures_of
        and claim.metric in case.evidence
        and case.case.workload.cache == "on"
    ]
    text = f"{_NOUNS[claim.metric]} published for that shape: {published} ({claim.source}); "
    if not ours:
        yield text + f"{claim.figures_of} was not measured here"
        return
    ours.sort(key=lambda found: found.case.workload.input_tokens)
    ends = {found.case.workload.input_tokens for found in (ours[0], ours[-1])}
    best = [_best([one for one in ours if one.case.workload.input_tokens == end], claim.metric) for end in sorted(ends)]
    reported = ", ".join(
        f"{one.evidence[claim.metric].interval().mid * 1e3:.3g} ms at {one.case.workload.input_tokens} in on "
        f"{one.case.backend} {precision_of(one.case)}, {one.case.device}"
        + (f", arm {one.case.arm}" if one.case.arm else "")
        for one in best
    )
    yield text + f"{claim.figures_of} here at its soonest: {reported}"


def _best(cases: Iterable[SideCase], metric: str) -> SideCase:
    return min(cases, key=lambda found: found.evidence[metric].estimate.value)


def ablation_sentences(sides: Sequence[Side]) -> list[str]:
    """Return for each case without a K/V cache how much longer a token takes than with one; nothing is judged by it."""
    sentences = []
    for side in sides:
        for found in side.cases.values():
            if found.case.workload.cache == "on" or "tpot" not in found.evidence:
                continue
            kept = side.cases.get(_with_cache(found.case).model_copy(update={"arm": None}).key)
            if kept is not None and "tpot" in kept.evidence:
                sentences.append(_ablation(found, kept, side.arm))
    return sentences


def _with_cache(case: Case) -> Case:
    return case.model_copy(update={"workload": case.workload.model_copy(update={"cache": "on"})})


def _ablation(off: SideCase, on: SideCase, arm: str | None) -> str:
    slower = log_ratio(on.evidence["tpot"], off.evidence["tpot"], interleaved=True).interval()
    work, case, where = off.case.workload, off.case, f", arm {arm}" if arm else ""
    return (
        f"{case.checkpoint} without a K/V cache takes {slower.mid:.2f}x{bounds(slower, 2, '')} the time per token at "
        f"{work.input_tokens} in / {work.output_tokens} out on {case.backend} {precision_of(case)}{where}: for "
        "information only; comparisons that run without a cache include this factor"
    )


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
    return [_answer(lead) for metric in _QUESTIONS for lead in leads_of(known, metric) if len(lead.speedups) > 2]


def _answer(lead: Lead) -> str:
    encoder, decoder, speedups = lead.encoder, lead.decoder, lead.speedups
    together, alone = _QUESTIONS[lead.metric]
    found = crossings(lead.line())
    first, last = min(speedups), max(speedups)
    if not found:
        unsure = [str(x) for x, y in speedups.items() if not (y.low > 1 or y.high < 1)]
        if unsure:
            return (
                f"{encoder} and {decoder}: no crossover was seen between {first} and {last} tokens in ({lead.where}), "
                f"and none is excluded: which {alone} sooner is not known at {', '.join(unsure)} in"
            )
        sooner = encoder if speedups[first].mid > 1 else decoder
        return (
            f"{encoder} and {decoder} do not cross between {first} and {last} tokens in ({lead.where}): "
            f"{sooner} {alone} sooner throughout"
        )
    places = ", ".join(_place(length, first, last) for length in found)
    before, after = (decoder, encoder) if speedups[first].mid < 1 else (encoder, decoder)
    then = f": below, {before} is sooner, above, {after}" if len(found) == 1 else ""
    return f"{encoder} and {decoder} {together} equally soon at {places} ({lead.where}){then}"


def _place(length: Interval, first: int, last: int) -> str:
    low = f"{length.low:.0f}" if math.isfinite(length.low) else f"below {first}"
    high = f"{length.high:.0f}" if math.isfinite(length.high) else f"above {last}"
    return f"{length.mid:.0f} tokens in [{low}, {high}]"


#: A difference that may be larger than this is unknown, not absent.
_EQUAL_WITHIN = 0.10


def pair_verdict(ratio: PairRatio) -> str:
    """Return what the interval says of the encoder-decoder, in a word or two; never more than it shows."""
    _, faster, slower, _ = _WORDS[ratio.metric]
    speedup = ratio.speedup
    if not speedup.known:
        return "one load: not known"
    return faster if speedup.low > 1 else slower if speedup.high < 1 else "no difference seen"


def pair_sentence(pair: Pair) -> str:
    """Return the answer as one sentence, from the figures, whichever way round it is."""
    work = pair.encoder.case.workload
    # Of one prompt and one answer the whole follows from the two others.
    whole = work.turns > 1 or work.answers > 1
    spoken = [ratio for name, ratio in pair.ratios.items() if name != "e2e" or whole]
    # The first token of a longer generation is spoken of there.
    spoken = [ratio for ratio in spoken if not _is_of_another(ratio)] or spoken
    case = pair.encoder.case
    where = f"{pair.engine} {precision_of(case)}" + (f", arm {pair.arm}" if pair.arm else "")
    more = f", {work.more()}" if work.more() else ""
    device = "" if case.device == "cpu" else f" on the {case.device.upper()}"
    return (
        f"{_sized(pair.encoder)} {_joined(map(_phrase, spoken))} than {_sized(pair.decoder)} at "
        f"{work.input_tokens} in / {work.output_tokens} out{more} on {where}{device} "
        f"({_against(spoken)}{_limits_alone(spoken)}{_more_work(spoken, pair)})"
    )


def _is_of_another(ratio: PairRatio) -> bool:
    derived = ratio.encoder.derived_from and ratio.decoder.derived_from
    return bool(derived) and METRICS[ratio.metric].belongs_to != "case"


def pair_sentences(run: Run | RunColumns) -> list[str]:
    """Return what the figures of a run say for each of its pairs, one sentence each, or why they say nothing."""
    columns = columns_of(run) if isinstance(run, Run) else run
    sides = sides_of(columns)
    sentences = [pair_sentence(pair) for side in sides for pair in pairs_of(side)]
    spoken_for = {(p.encoder.case.checkpoint, p.decoder.case.checkpoint) for side in sides for p in pairs_of(side)}
    for encoder, decoder in columns.record.pairs:
        if (encoder, decoder) not in spoken_for:
            sentences.append(f"{encoder} against {decoder}: no case of both has figures, so there is nothing to say")
    return sentences


def _phrase(ratio: PairRatio) -> str:
    verb, faster, slower, equal = _WORDS[ratio.metric]
    speedup = ratio.speedup
    if not speedup.known:
        word = faster if speedup.mid >= 1 else slower
        return f"{verb} about {max(speedup.mid, 1 / speedup.mid):.2f}x {word} [one load: no interval]"
    if speedup.low > 1:
        return f"{verb} {speedup.mid:.2f}x {faster}{_bounds(speedup)}"
    if speedup.high < 1:
        inverse = speedup.inverse()
        return f"{verb} {inverse.mid:.2f}x {slower}{_bounds(inverse)}"
    if not speedup.telling:
        return f"{verb} {slower} or {faster}, by a factor that is not known (too few loads to tell)"
    largest = max(speedup.high, 1 / speedup.low) - 1
    if largest > _EQUAL_WITHIN:
        return (
            f"{verb} between {1 / speedup.low:.2f}x {slower} and {speedup.high:.2f}x {faster} (too few loads to tell)"
        )
    return f"{verb} {equal} (no difference larger than {_percent_up(largest)})"


def _joined(phrases: Iterable[str]) -> str:
    *most, last = phrases
    return f"{', '.join(most)} and {last}" if most else last


_PHASES = {"ttft": "first token", "turn_ttft": "later turns", "tpot": "decoding", "e2e": "in whole"}


def _against(ratios: list[PairRatio]) -> str:
    """Name the decoder path the claim is made against; one a metric where the best differ."""
    paths = [_path(ratio.decoder) for ratio in ratios]
    if len(set(paths)) == 1:
        return f"against {paths[0]}"
    return ", ".join(f"{_PHASES[ratio.metric]} against {path}" for ratio, path in zip(ratios, paths, strict=True))


def _limits_alone(ratios: list[PairRatio]) -> str:
    """Return what the device's limits would make of the pair: each model's shortest times, divided."""
    known = [
        f"{_PHASES[ratio.metric]} {ratio.limits_alone:.2f}x" for ratio in ratios if math.isfinite(ratio.limits_alone)
    ]
    too_low = " (measured too low: a figure is faster than they allow)" if any(r.beats_limits for r in ratios) else ""
    return f"; the device's limits alone{too_low} give {', '.join(known)}" if known else ""


def _more_work(ratios: Iterable[PairRatio], pair: Pair) -> str:
    """Return what the engine's steps do beyond what the encoder-decoder asks for; a better one would be faster."""
    again = any(ratio.computes_cross_kv_again for ratio in ratios)
    return f"; {pair.engine} has the encoder-decoder's {CROSS_KV_AGAIN}" if again else ""


def _bounds(interval: Interval) -> str:
    return f" [{interval.low:.2f}, {interval.high:.2f}]"


def _percent_up(share: float) -> str:
    """Return a share in percent, rounded up: it is said that nothing is larger."""
    return f"{math.ceil(share * 1000 - 1e-9) / 10:g} %"


def _sized(found: SideCase) -> str:
    unproven = "" if found.model.reference else ", no reference"
    return f"{found.case.checkpoint} ({parameters(found.model.parameter_count)}{unproven})"


def _path(found: SideCase) -> str:
    path = found.model.attention_path or "its only path"
    return path if found.case.backend == found.model.engine else f"{path} by {found.case.backend}"
