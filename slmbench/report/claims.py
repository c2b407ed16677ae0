"""Published claims as people see them: what is claimed, what was found, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from slmbench.analysis.claim_verdicts import VERDICTS, ClaimFigure, ClaimFinding, findings_of
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.pairs import precision_of, sides_of
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import COUNTED_METRICS, Claim
from slmbench.report.pairing_words import PAIRING_NAMES
from slmbench.report.text_table import TextTable, bounds

_NOUNS = {
    "ttft": "time to first token", "tpot": "time per token", "e2e": "time of the whole answer",
    "parameters": "parameters", "step_flops": "operations a step", "step_bytes": "bytes a step moves",
    "kv_bytes": "K/V that a step reads",
}  # fmt: skip
_READ = {"paper": "", "abstract": "; only the abstract was read", "not read": "; the paper was not read"}


def claim_sentences(run: RunColumns, sides: Sequence[Side]) -> list[str]:
    """Return for each claim of the run's suite what its pairs say of it, then the published figures next to ours.

    A pair is asked at each of its workloads; the claim holds where the whole 95 % interval is at least the claimed
    factor, and fails where the whole interval is below it. Nothing is said of cases without a K/V cache here.
    """
    sentences = []
    for claim in run.record.claims:
        found = findings_of(run, claim, sides)
        reported = [*map(_sentence, found), *_figures(claim, sides)]
        if reported and claim.note:
            reported[-1] += f". {claim.note}"
        sentences += reported
    return sentences


def claims_table(run: RunColumns) -> TextTable | None:
    """Return a row for each claim and what says something of it; None where the run's suite has no claims."""
    claims, sides = run.record.claims, sides_of(run)
    if not claims:
        return None
    headers = ["claimed", "source", "checked on", "found [95 %]", "verdict"]
    rows, notes = [], []
    for claim in claims:
        found = findings_of(run, claim, sides)
        said = [f"{claim.says} ({_factor(claim)} in {_NOUNS[claim.metric]})", f"{claim.source}{_READ[claim.read]}"]
        rows += [[*said, _checked_on(one), _span(one), _verdict(one)] for one in found]
        if not found:
            rows.append([*said, "nothing", "", f"cannot be checked here: {claim.cannot or 'it was not measured'}"])
        notes += [f"{claim.says}: checked: {claim.checks}"] if claim.checks else []
        notes += [f"{claim.says}: cannot be checked here: {claim.cannot}"] if claim.cannot else []
    return TextTable(headers, rows, [False] * len(headers), notes=list(dict.fromkeys(notes)))


def _factor(claim: Claim) -> str:
    return f"{claim.speedup:.2f}x"


def _checked_on(one: ClaimFinding) -> str:
    pairing = f", {PAIRING_NAMES[one.pairing]}" if one.pairing else ""
    return f"{one.names[0]} against {one.names[1]}{pairing}; {one.where or 'by the cost model'}"


def _verdict(one: ClaimFinding) -> str:
    counts = one.counts
    if len(counts) < 2:
        return one.verdict
    return ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])


def _sentence(one: ClaimFinding) -> str:
    """Return how many of a pair's workloads show the claimed factor, and between what the factors lie."""
    claim, pairing = one.claim, f" ({PAIRING_NAMES[one.pairing]})" if one.pairing else ""
    where = f"on {one.where}" if one.where else "by the cost model"
    again = any(pair.ratios[claim.metric].computes_cross_kv_again for pair in one.pairs)
    more = f"; {one.pairs[0].engine} has the encoder-decoder's {CROSS_KV_AGAIN}" if again else ""
    return (
        f"'{claim.says}' ({claim.source}{_READ[claim.read]}), a factor of {claim.speedup:.2f} in "
        f"{_NOUNS[claim.metric]}: {one.names[0]} against {one.names[1]}{pairing} {where}: {_span(one)}; "
        f"{_counts(one)}{more}; verdict: {one.verdict}"
    )


def _counts(one: ClaimFinding) -> str:
    counts, total = one.counts, len(one.figures)
    fails = sum(figure.factor.known and figure.factor.high < one.claim.speedup for figure in one.figures)
    open_ = total - counts["holds"] - fails
    text = f"it holds at {counts['holds']} of {total} workloads, fails at {fails}"
    return text + (f", and at {open_} the interval does not tell" if open_ else "")


def _span(one: ClaimFinding) -> str:
    return " to ".join(_at(figure, one.claim.metric) for figure in one.span)


def _at(figure: ClaimFigure, metric: str) -> str:
    work, found = figure.workload, figure.factor
    if metric == "parameters":
        return f"{found.mid:.3f}x"
    between = "" if metric in COUNTED_METRICS else bounds(found, 2, "")
    return f"{found.mid:.2f}x{between} at {work.input_tokens} in / {work.output_tokens} out"


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
