"""What a run says of published claims, and of a loop without a K/V cache, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from slmbench.analysis.metrics import Side, SideCase, log_ratio
from slmbench.analysis.pairs import Pair, pairs_of, precision_of
from slmbench.case import Case
from slmbench.claim import Claim
from slmbench.records.sample_arrays import RunColumns
from slmbench.report.text_table import bounds

_NOUNS = {"ttft": "time to first token", "tpot": "time per token", "e2e": "time of the whole answer"}


def claim_sentences(run: RunColumns, sides: Sequence[Side]) -> list[str]:
    """Return for each claim of the run's suite what its pairs say of it, then the published figures beside ours.

    A pair is asked at each of its workloads; the claim holds where the whole 95 % interval is at least the claimed
    factor, and fails where the whole interval is below it. Nothing is said of cases without a K/V cache here.
    """
    sentences = []
    for claim in run.record.claims:
        groups: dict[tuple[str, ...], list[Pair]] = {}
        for side in sides:
            for pair in pairs_of(side):
                if claim.metric in pair.ratios:
                    groups.setdefault(_group(pair), []).append(pair)
        told = [*(_verdict(claim, pairs) for pairs in groups.values()), *_figures(claim, sides)]
        if told and claim.note:
            told[-1] += f". {claim.note}"
        sentences += told
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
        f"{first.device}{arm}: {span}; {counts}"
    )


def _middle(claim: Claim) -> Callable[[Pair], float]:
    return lambda pair: pair.ratios[claim.metric].speedup.mid


def _at(claim: Claim, pair: Pair) -> str:
    work, found = pair.encoder.case.workload, pair.ratios[claim.metric].speedup
    return f"{found.mid:.2f}x{bounds(found, 2, '')} at {work.input_tokens} in / {work.output_tokens} out"


def _figures(claim: Claim, sides: Sequence[Side]) -> Iterator[str]:
    """Yield the published figures with ours of the same shape beside them, at the shortest and the longest input."""
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
    told = ", ".join(
        f"{one.evidence[claim.metric].interval().mid * 1e3:.3g} ms at {one.case.workload.input_tokens} in on "
        f"{one.case.backend} {precision_of(one.case)}, {one.case.device}"
        + (f", arm {one.case.arm}" if one.case.arm else "")
        for one in best
    )
    yield text + f"{claim.figures_of} here at its soonest: {told}"


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
        f"{work.input_tokens} in / {work.output_tokens} out on {case.backend} {precision_of(case)}{where}: an "
        "ablation, no path to judge by; a comparison with such a loop has this factor in it"
    )
