"""What a run says of its pairs, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slmbench.analysis.front import fronts_of
from slmbench.analysis.leaders import leaders_of
from slmbench.analysis.metrics import METRICS, Side, SideCase
from slmbench.analysis.pairs import Pair, PairRatio, pairs_of, precision_of, sides_of, unequal_of
from slmbench.analysis.ratios import log_ratio
from slmbench.analysis.stats import LEAST_LOADS, Interval
from slmbench.case import Case
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.records.sample_arrays import RunColumns, columns_of
from slmbench.records.schema import Run
from slmbench.report.answers import answer_sentences
from slmbench.report.claims import claim_sentences
from slmbench.report.crossover_sentences import crossover_sentences
from slmbench.report.leader_sentences import leader_sentences
from slmbench.report.pairing_words import pairing_words
from slmbench.report.picture_sentences import picture_sentences
from slmbench.report.speed_against_quality import front_sentences
from slmbench.report.text_table import bounds, parameters
from slmbench.terms import Pairing, pairing_of

#: How the sentence of a pair says faster, slower and equal.
_WORDS = {
    "ttft": ("reaches its first token", "sooner", "later", "as soon"),
    "turn_ttft": ("reaches the first token of later turns", "sooner", "later", "as soon"),
    "tpot": ("decodes", "faster", "slower", "as fast"),
    "e2e": ("answers in whole", "sooner", "later", "as soon"),
}


def run_sentences(run: RunColumns) -> list[str]:
    """Return how each pair compares, or who leads where models are no pair, what pictures cost, at which input length
    families change places, what that says of claims, and what nothing else beats on speed and quality.
    """
    sides = sides_of(run)
    crossed = [line for side in sides for line in crossover_sentences(pairs_of(side))]
    fronts = front_sentences(front for side in sides for front in fronts_of(side))
    claims = [*claim_sentences(run, sides), *ablation_sentences(sides)]
    leads = leader_sentences(leader for side in sides for leader in leaders_of(side))
    return [
        *pair_sentences(run),
        *picture_sentences(run, sides),
        *leads,
        *crossed,
        *claims,
        *fronts,
        *answer_sentences(run),
    ]


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
    """Return the answer as one sentence, from the figures, whichever way round it is; then what its pairing is."""
    return f"{_answer(pair)}. {pairing_words([pair])}"


def _answer(pair: Pair) -> str:
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
    pairs = [pair for side in sides for pair in pairs_of(side)]
    unequal = [one for side in sides for one in unequal_of(side)]
    sentences = [*_answers(pairs), *(_unequal(pair, reason) for pair, reason in unequal)]
    spoken_for = {_names(pair) for pair in [*pairs, *(pair for pair, _ in unequal)]}
    silent = [names for names in columns.record.pairs if (names[0], names[1], pairing_of(names)) not in spoken_for]
    return sentences + [
        f"{names[0]} against {names[1]}: no case of both has figures, so there is nothing to say" for names in silent
    ]


def _answers(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield a sentence for each pair; what its pairing is comes once for two models on one engine, after the last."""
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        one = (*_names(pair), pair.engine, precision_of(pair.encoder.case), pair.encoder.case.device, pair.arm)
        groups.setdefault(one, []).append(pair)
    for group in groups.values():
        *most, last = map(_answer, group)
        yield from most
        yield f"{last}. {pairing_words(group)}"


def _names(pair: Pair) -> tuple[str, str, Pairing]:
    return pair.encoder.case.checkpoint, pair.decoder.case.checkpoint, pair.pairing


def _unequal(pair: Pair, reason: str) -> str:
    case = pair.encoder.case
    return (
        f"{case.checkpoint} against {pair.decoder.case.checkpoint} on {pair.engine} {precision_of(case)}: nothing is "
        f"said of the pairing 'quality', for {reason}"
    )


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
    why = "the loads vary too much to tell" if ratio.loads >= LEAST_LOADS else "too few loads to tell"
    if not speedup.telling:
        return f"{verb} {slower} or {faster}, by a factor that is not known ({why})"
    largest = max(speedup.high, 1 / speedup.low) - 1
    if largest > _EQUAL_WITHIN:
        return f"{verb} between {1 / speedup.low:.2f}x {slower} and {speedup.high:.2f}x {faster} ({why})"
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
