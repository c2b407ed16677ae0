"""Comparisons as people and scripts read them: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from slmbench.analysis.judgement import EQUIVALENCE_ALPHA, JudgedFigure, Judgement, Verdict
from slmbench.analysis.metrics import METRICS, Side
from slmbench.analysis.not_judged import NotJudged
from slmbench.analysis.pairs import Pair, pairs_of
from slmbench.analysis.quality import QualityJudgement, configuration_of
from slmbench.analysis.quality_metrics import QUALITY_METRICS, written_gate
from slmbench.analysis.sides import FIELDS
from slmbench.analysis.stats import TELLING
from slmbench.analysis.verdict_rules import BETWEEN_REASONS
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import BadInputError, amount, nearest, one_line
from slmbench.records.refusals import Refusal, refusal_lines
from slmbench.report.comparison_columns import COLUMNS, MARKS, STYLES, Row, also_for
from slmbench.report.comparison_rows import rows_of, spread
from slmbench.report.csv_text import csv_text
from slmbench.report.said_once import named, said_once
from slmbench.report.sentences import pair_sentence
from slmbench.report.text_table import (
    Column,
    TextTable,
    bounds,
    escape_markdown,
    folded,
    markdown_sentence,
    markdown_table,
    number,
    print_table,
)

if TYPE_CHECKING:
    from rich.console import Console

_FALSE: Verdict = "faster because worse"
#: Missing cases for which the nearest ones are looked up: among thousands that takes seconds each.
HINTED_CASES = 5


def _by_field(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


def _last_where_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value


SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "case": lambda row: 0,  # noqa: ARG005 (the order they come in)
    "ratio": lambda row: _last_where_unknown(-row["ratio"]),
    "verdict": lambda row: list(MARKS).index(row["verdict"]),
    "p": lambda row: _last_where_unknown(row["p_value"]),
    "metric": lambda row: [*METRICS, *QUALITY_METRICS].index(row["metric"]),
    **{name: _by_field(name) for name in FIELDS},
}


def sorted_rows(rows: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return rows in an order of :data:`SORT_KEYS`; ``case`` leaves them as they are.

    Raises:
        BadInputError: no such order.
    """
    if key not in SORT_KEYS:
        known = list(SORT_KEYS)
        raise BadInputError(f"--sort {key}: unknown. Known: {', '.join(known)}.{nearest(key, known)}")
    return sorted(rows, key=SORT_KEYS[key])


def grouped_rows(rows: Sequence[dict[str, Any]], field: str | None) -> dict[str, list[dict[str, Any]]]:
    """Return the rows by a field of the case (or ``metric``); all under an empty name without one.

    Raises:
        BadInputError: no such field.
    """
    if field is None:
        return {"": list(rows)}
    known = [*FIELDS, "metric"]
    if field not in known:
        raise BadInputError(f"--group {field}: unknown. Known: {', '.join(known)}.{nearest(field, known)}")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{field} {row[field]}", []).append(row)
    return groups


def headline(comparison: Comparison) -> str:
    """Return the outcome in one line: how many metrics of how many cases did what."""
    if comparison.unjudged:
        return f"not judged: {comparison.unjudged}"
    counts = comparison.counts()
    judged = {found.key for found in (*comparison.shown(), *comparison.judged())}
    cases = len(judged | {left.key for left in comparison.not_judged})
    parts = [f"{counts[verdict]} {verdict}" for verdict in MARKS if verdict in counts]
    if comparison.failed:
        parts.append(f"{len(comparison.failed)} failed")
    return f"{comparison.new.name} against {comparison.base.name}: {', '.join(parts)} ({amount(cases, 'case')})"


def means(comparison: Comparison) -> list[str]:
    """Return the geometric mean over cases of each metric, as text."""
    lines = []
    for metric, estimate in comparison.means.items():
        mean = estimate.interval()
        lines.append(f"{metric}: {mean.mid:.3f}{bounds(mean, 3)}")
    return lines


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know besides the table: what is missing, failed, differs, was warned of."""
    base, new = comparison.base.name, comparison.new.name
    lines = said_once(f"only in {base}", missing_cases(comparison).items())
    lines += said_once(f"only in {new}", ((key, "") for key in comparison.only_new))
    lines += said_once(f"failed in {new}", ((key, f": {reason}") for key, reason in comparison.failed.items()))
    lines += said_once("not judged", ((_named(left), f": {left.reason}") for left in comparison.not_judged))
    lines += said_once(_FALSE, ((_named(j), f": {j.reason}") for j in comparison.judgements if j.verdict == _FALSE))
    lines += _inconclusive([j for j in comparison.judged() if j.verdict == "inconclusive"])
    lines += _adjusted(comparison)
    lines += _changed(comparison)
    lines += judged_once(comparison)
    lines += [f"cannot run in {comparison.new.name}: {line}" for line in refusal_lines(other_refusals(comparison))]
    kinds = {True: "differs (hard)", False: "differs"}
    lines += [f"machine {kinds[found.hard]}: {found}" for found in comparison.differences]
    return [one_line(line) for line in [*lines, *comparison.warnings]]


def _named(one: JudgedFigure | NotJudged) -> str:
    return f"{one.key} {one.metric}"


def _inconclusive(found: Sequence[JudgedFigure]) -> list[str]:
    """Return a line a reason: for which figures it holds, and what would have been seen where that is of interest."""
    alike: dict[tuple[str, bool], list[JudgedFigure]] = {}
    for one in found:
        for reason in one.reason.split(BETWEEN_REASONS, 1) if _is_disturbed(one) else [one.reason]:
            alike.setdefault((reason, isinstance(one, QualityJudgement)), []).append(one)
    lines = []
    for (reason, _), group in alike.items():
        names = named([_named(one) for one in group])
        told = "; ".join(part for part in (reason, seen_in(group)) if part)
        lines.append(f"inconclusive: {names}: {told}{also_for(group[0]) if len(group) == 1 else ''}")
    return lines


def _is_disturbed(one: JudgedFigure) -> bool:
    """Return whether the first reason is a disturbance, which many figures share while the rest is each one's own."""
    return isinstance(one, Judgement) and bool(one.disturbed_sides)


def _adjusted(comparison: Comparison) -> list[str]:
    """Return that p-values are adjusted and intervals are not, where the two seem to contradict each other."""
    judged: Sequence[Judgement] = () if comparison.unjudged else comparison.judgements
    differing = [one for one in judged if one.ratio.known and not one.ratio.low <= 1 <= one.ratio.high]
    if all(one.p_value <= EQUIVALENCE_ALPHA for one in differing):
        return []
    return [
        f"p counts that {judged[0].figures:,} figures were judged (adjusted after Holm), the 95 % intervals do not: "
        "an interval can leave out 1 where p is large"
    ]


def _changed(comparison: Comparison) -> list[str]:
    """Return what differs besides the figures, once for each configuration."""
    found = {
        configuration_of(comparison.base.cases[key]): "; ".join(map(str, what))
        for key, what in comparison.changed.items()
    }
    return [f"changed in {comparison.new.name}: {configuration}: {what}" for configuration, what in found.items()]


def judged_once(comparison: Comparison) -> list[str]:
    """Return for each metric how many figures are those of other cases: one line each, none where there are none."""
    counts = Counter(found.metric for found in comparison.shared)
    return [
        f"{METRICS[metric].title}: {amount(count, 'row')} with the judgement of another case, which has the same figure"
        for metric, count in counts.items()
    ]


def missing_cases(comparison: Comparison) -> dict[str, str]:
    """Return the base's cases that the new side lacks, with the reason, or the first few with the nearest left over."""
    hinted = comparison.only_base[:HINTED_CASES]
    hints = {}
    for key in comparison.only_base:
        case = comparison.base.cases[key].case
        reason = next((refusal.reason for refusal in comparison.new.refusals if refusal.covers(case)), None)
        hints[key] = (
            f": cannot run: {reason}" if reason else _nearest_cases(key, comparison.only_new) if key in hinted else ""
        )
    return hints


def other_refusals(comparison: Comparison) -> list[Refusal]:
    """Return what cannot run on the new side and is no case of the base either."""
    cases = [comparison.base.cases[key].case for key in comparison.only_base]
    return [one for one in comparison.new.refusals if not any(one.covers(case) for case in cases)]


@lru_cache(maxsize=256)
def _nearest_cases(key: str, known: tuple[str, ...]) -> str:
    hint = nearest(key, list(known), count=2)
    return f".{hint}" if hint else ""


def seen(judgement: JudgedFigure) -> str:
    """Return the smallest slowdown or loss that would have been called one, as text."""
    if isinstance(judgement, QualityJudgement):
        if not math.isfinite(judgement.detectable):
            return "no loss would have been seen"
        least = float(f"{judgement.detectable:.2g}")
        return f"a loss of {written_gate(least, judgement.metric)} or more would have been seen"
    assert isinstance(judgement, Judgement)
    if not math.isfinite(judgement.detectable):
        return "no slowdown would have been seen"
    if judgement.detectable > TELLING:
        return f"no slowdown below {TELLING * 100} % would have been seen"
    return f"a slowdown of {number(judgement.detectable * 100, 2)} % or more would have been seen"


def seen_in(group: Sequence[JudgedFigure]) -> str:
    """Return the same for several: what would have been seen in the clearest and in the noisiest of them.

    Empty where it is not the noise that hides a slowdown.
    """
    group = [one for one in group if not isinstance(one, Judgement) or one.hidden_by_noise]
    if not group:
        return ""
    clearest, noisiest = (choose(group, key=lambda one: one.detectable) for choose in (min, max))
    if seen(clearest) == seen(noisiest):
        return seen(clearest)
    return f"{seen(clearest)} in the clearest, {seen(noisiest)} in the noisiest"


def pair_lines(sides: Sequence[Side]) -> list[str]:
    """Return what each side says about its pairs: the sentence, then parameters and bytes behind it."""
    return [one_line(f"{side.name}: {_with_reasons(pair)}") for side in sides for pair in pairs_of(side)]


def _with_reasons(pair: Pair) -> str:
    behind = _behind(pair)
    sentence = pair_sentence(pair)
    return f"{sentence}; {behind}" if behind else sentence


def _behind(pair: Pair) -> str:
    """Return the FLOPs and bytes of both, which the ratios can be held against."""
    sides = [pair.encoder.model, pair.decoder.model]
    parts = []
    flops = [model.first_token_flops for model in sides]
    if all(flops):
        first, second = (f"{value / 1e9:.3g}" for value in flops if value)
        parts.append(f"up to the first token {first} against {second} GFLOP")
    moved = [model.step_bytes for model in sides]
    if all(moved):
        first, second = (f"{value / 1e6:.3g}" for value in moved if value)
        parts.append(f"a step moves {first} against {second} MB")
    return ", ".join(parts)


def comparison_table(
    comparison: Comparison,
    rows: Sequence[Row],
    columns: Sequence[Column] = COLUMNS,
    width: int | None = None,
    shows_all: str = "",
) -> TextTable:
    """Return rows of a comparison as a text table, with the sides' names in the headers.

    Of a table too wide for ``width`` columns are left out; ``shows_all`` is the command that has them.
    """
    names = {"base": one_line(comparison.base.name), "new": one_line(comparison.new.name)}
    named = [replace(c, header=names.get(c.header, c.header), foldable=c.foldable and len(rows) > 1) for c in columns]
    return folded(named, rows, width, shows_all)


def print_comparison(
    console: Console,
    comparison: Comparison,
    *,
    sort: str = "case",
    group: str | None = None,
    columns: Sequence[Column] = COLUMNS,
    shows_all: str = "--format markdown",
) -> None:
    """Print a comparison: headline, table, geometric means, notes."""
    from rich.text import Text

    console.print(Text(one_line(headline(comparison)), style="bold"))
    for name, rows in grouped_rows(sorted_rows(rows_of(comparison), sort), group).items():
        if name:
            console.print(Text(f"\n{one_line(name)}", style="bold"))
        table = comparison_table(comparison, rows, columns, console.width, shows_all)
        print_table(console, table, styles=STYLES)
    if comparison.means and len({judgement.key for judgement in comparison.shown()}) > 1:
        console.print(Text(f"geometric mean of new / base: {', '.join(means(comparison))}"))
    if said := notes(comparison):
        console.print(Text("\n".join(said)))


def comparison_markdown(
    comparison: Comparison, *, sort: str = "case", group: str | None = None, columns: Sequence[Column] = COLUMNS
) -> str:
    """Return a comparison as Markdown."""
    parts = [f"**{markdown_sentence(headline(comparison))}**\n"]
    for name, rows in grouped_rows(sorted_rows(rows_of(comparison), sort), group).items():
        if name:
            parts.append(f"### {escape_markdown(name)}\n")
        table = comparison_table(comparison, rows, columns)
        if table.common:
            common = ", ".join(f"{key}: {value}" for key, value in table.common.items())
            parts.append(escape_markdown(f"Every row has {common}.") + "\n")
        parts.append(markdown_table(table.headers, table.rows, table.numeric))
    if comparison.means:
        parts.append(f"Geometric mean of new / base: {', '.join(means(comparison))}.\n")
    if notes(comparison):
        parts.append("\n".join(f"- {markdown_sentence(line)}" for line in notes(comparison)) + "\n")
    return "\n".join(parts)


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """Return all judgements as CSV, in SI units."""
    rows = [row for comparison in comparisons for row in rows_of(comparison)]
    return csv_text(rows)


def comparisons_json(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> str:
    """Return comparisons as JSON, in SI units; what is unknown is null.

    ``problems`` are machines that could not be judged, with the reasons: comparisons without judgements.
    """
    raw: list[dict[str, Any]] = [
        {
            "base": comparison.base.name,
            "new": comparison.new.name,
            "judged": comparison.unjudged is None,
            "unjudged": comparison.unjudged,
            "verdicts": comparison.counts(),
            "judgements": [_without_nan(row) for row in rows_of(comparison)],
            "geometric_means": {m: _without_nan(spread("ratio", e.interval())) for m, e in comparison.means.items()},
            "only_base": list(comparison.only_base),
            "only_new": list(comparison.only_new),
            "failed": comparison.failed,
            "changed": {
                key: [{"what": one.what, "base": one.base, "new": one.new} for one in what]
                for key, what in comparison.changed.items()
            },
            "refusals": {refusal.label: refusal.reason for refusal in comparison.new.refusals},
            "differences": [
                {"field": d.field, "base": d.a, "new": d.b, "kind": d.kind, "hard": d.hard}
                for d in comparison.differences
            ],
            "warnings": list(comparison.warnings),
            "pairs": pair_lines([comparison.base, comparison.new]),
        }
        for comparison in comparisons
    ]
    raw += [{"judged": False, "unjudged": problem, "verdicts": {}, "judgements": []} for problem in problems]
    return json.dumps(raw, indent=1, allow_nan=False)


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
