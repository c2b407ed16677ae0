"""The HTML reports: one file that works offline, the verdict on top, the proof a click away."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from slmbench._version import __version__
from slmbench.analysis.crossover import crossovers, curves_of
from slmbench.analysis.front import FRONT_METRICS, fronts_of
from slmbench.analysis.judgement import FAILING
from slmbench.analysis.metrics import METRICS, Side, SideCase
from slmbench.analysis.pairs import pairs_of, sides_of
from slmbench.analysis.roofline import limits_of_case
from slmbench.analysis.verdicts import Comparison
from slmbench.errors import amount, one_line
from slmbench.records.sample_arrays import RunColumns
from slmbench.report import charts
from slmbench.report.answers import TASKS_LEGEND, answers_side_by_side, answers_table
from slmbench.report.case_details import case_details
from slmbench.report.case_labels import side_labels
from slmbench.report.chart_bundle import chart_bundle
from slmbench.report.chart_parts import packed
from slmbench.report.claims import claims_table
from slmbench.report.comparison import (
    comparison_table,
    headline,
    means,
    notes,
    pair_lines,
)
from slmbench.report.comparison_columns import MARKS, columns_named
from slmbench.report.comparison_rows import rows_of
from slmbench.report.html_text import with_code, without_control
from slmbench.report.over_input_chart import ttft_over_input
from slmbench.report.phase_chart import first_token_phases
from slmbench.report.run_columns import DETAILS, text_table
from slmbench.report.run_conditions import conditions, facts
from slmbench.report.sentences import run_sentences
from slmbench.report.speed_against_quality import front_chart
from slmbench.report.text_table import TextTable, bounded

LEGEND = (
    "A figure is the geometric mean over loads of each load's median, with its 95 % interval: a model is loaded "
    "several times, in processes of its own, because loads of the same model differ for as long as they live. "
    "Everything here follows from samples.jsonl."
)


#: A page is narrower than a comparison's table: what matters comes first.
VERDICT_FIRST = ("model", "metric", "verdict", "ratio", "base", "new", "lengths", "backend", "attention", "precision",
                 "batch", "device", "exporter", "p", "gate", "params", "family")  # fmt: skip


@dataclass
class Page:
    """What the template shows."""

    title: str
    subtitle: str
    sentences: list[str]
    mood: str = ""
    warnings: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    #: Under which conditions the figures came about, in sentences.
    conditions: list[str] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    machines: list[dict[str, Any]] = field(default_factory=list)

    def add_chart(self, title: str, caption: str, spec: dict[str, Any] | None, *, first: bool = False) -> None:
        """Add a chart, before the tables if it comes ``first``; one without data is left out."""
        if spec is not None:
            name = f"chart-{len(self.charts) + 1}"
            self.charts.append({"id": name, "title": title, "caption": caption, "spec": spec, "first": first})

    def render(self) -> str:
        """Return the page as one HTML file."""
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

        folder = files("slmbench.report")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=without_control
        )
        environment.filters["code"] = with_code
        template = environment.from_string(folder.joinpath("report.html.j2").read_text(encoding="utf-8"))
        specs = json.dumps(
            {chart["id"]: packed(chart["spec"]) for chart in self.charts}, allow_nan=False, separators=(",", ":")
        )
        return template.render(
            **{name: value for name, value in vars(self).items() if name != "charts"},
            charts=self.charts,
            # In a script only "</" and "<!--" could end or confuse it; JSON may write "<" otherwise.
            chart_json=Markup(specs.replace("<", "\\u003c")),
            css=Markup(folder.joinpath("report.css").read_text(encoding="utf-8")),
            script=Markup(folder.joinpath("report.js").read_text(encoding="utf-8")),
            bundle=Markup(chart_bundle()),
            nonce=hashlib.sha256(specs.encode()).hexdigest()[:24],
            legend=LEGEND,
            version=__version__,
        )


def run_charts(run: RunColumns) -> dict[str, dict[str, Any]]:
    """Return the charts of a run's report, Vega-Lite specifications by title; those without data are left out."""
    page = Page(title="", subtitle="", sentences=[], warnings=[])
    _add_charts(page, run)
    return {chart["title"]: chart["spec"] for chart in page.charts}


def run_report(run: RunColumns, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the report of a run as one HTML file."""
    record = run.record
    page = Page(
        title=f"slmbench: {record.suite or 'run'}",
        subtitle=_run_subtitle(run),
        sentences=run_sentences(run) or _plain_sentences(rows),
        warnings=list(run.warnings),
    )
    ids = {info.case.key: f"case-{index}" for index, info in enumerate(record.cases, 1)}
    page.tables.append(_run_table(rows, ids))
    if claimed := claims_table(run):
        page.tables.append(html_table("Claims", claimed, []))
    if answered := answers_table(run):
        shown = html_table("Answers to tasks", answered, [])
        page.tables.append({**shown, "notes": [*shown["notes"], TASKS_LEGEND]})
    if texts := answers_side_by_side(run):
        page.tables.append(_of_texts(html_table("Answers side by side", texts, [])))
    _add_charts(page, run)
    page.conditions = conditions(run)
    page.cases = [case_details(run, info, ids[info.case.key]) for info in record.cases]
    page.machines = list(_run_facts(run))
    return page.render()


def _add_charts(page: Page, run: RunColumns) -> None:
    sides = sides_of(run)
    named = [
        (f"{side.arm}: {label}" if side.arm else label, side.cases[key])
        for side in sides
        for key, label in side_labels(side).items()
    ]
    _add_distributions(page, named)
    _add_run_charts(page, run, sides, named)


def _run_subtitle(run: RunColumns) -> str:
    record = run.record
    state = "" if record.finished else " (not finished)"
    samples = sum(int(columns.counted().sum()) for columns in run.recorded.values())
    counts = f"{amount(len(record.cases), 'case')}, {amount(samples, 'sample')}"
    return f"{record.run_id}, {record.created}{state}: {counts}"


def _plain_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for a run of one case, where there is nothing to compare."""
    measured = [row for row in rows if math.isfinite(row["ttft_s"])]
    if not measured:
        return ["Nothing was measured."]
    row = min(measured, key=lambda row: row["ttft_s"])
    precision = f"{row['weight_precision']}/{row['compute_precision']}"
    return [
        f"{row['model']} on {row['backend']} in {precision} gives its first token after {bounded(row, 'ttft_s', 1e3)} "
        f"ms, then {bounded(row, 'decode_tps')} tokens per second, at {row['input_tokens']} tokens in and "
        f"{row['output_tokens']} out."
    ]


def _run_table(rows: Sequence[Mapping[str, Any]], ids: Mapping[str, str]) -> dict[str, Any]:
    table = text_table(rows)
    keys = [row["case"] for row in rows if math.isfinite(row["ttft_s"])]
    return html_table("Results", table, [ids[key] for key in keys], DETAILS)


def html_table(title: str, table: TextTable, links: Sequence[str], details: Collection[str] = ()) -> dict[str, Any]:
    """Return a table as the template takes it; ``links`` are the anchors of its rows, if they have any.

    Columns among ``details`` are shown when the reader asks for all.
    """
    rows = [
        {"cells": row, "link": links[index] if links else "", "classes": [_cell_class(cell) for cell in row]}
        for index, row in enumerate(table.rows)
    ]
    common = ", ".join(f"{name}: {value}" for name, value in table.common.items())
    return {
        "title": title,
        "headers": table.headers,
        "details": [header in details for header in table.headers],
        "numeric": table.numeric,
        "rows": rows,
        "foot": [],
        "common": common,
        "notes": table.notes,
    }


def _of_texts(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table whose cells are other people's texts: no word of theirs is a verdict."""
    for row in table["rows"]:
        row["classes"] = ["lines" if "\n" in cell else "wrap" if len(cell) > 40 else "" for cell in row["cells"]]
    return table


def _cell_class(cell: str) -> str:
    plain = "lines" if "\n" in cell else "wrap" if len(cell) > 40 else ""
    plain += " best" if cell.split()[:1] == ["*"] else ""
    named = [verdict for verdict, mark in MARKS.items() if cell.startswith(f"{mark} {verdict}")]
    return f"v-{named[0].replace(' ', '-')}" if named else plain


def _add_distributions(page: Page, labelled: Sequence[tuple[str, SideCase]]) -> None:
    caption = (
        "Every point is one generation (of one that was taken again, the less disturbed); in each row every load has a "
        "line of its own. The bar is the 95 % interval over loads; one load has none. Click a family to single it out."
    )
    caption += _left_out(len(labelled), "cases")
    for metric in ("ttft", "tpot"):
        shown = [(label, case) for label, case in labelled if metric in case.evidence]
        title = METRICS[metric].title
        page.add_chart(title[0].upper() + title[1:], caption, charts.distribution(shown, metric), first=True)


def _left_out(count: int, what: str) -> str:
    """Return what a caption says of rows that its chart leaves out."""
    drawn = charts.MOST_ROWS
    return f" The first {drawn} of {count} {what} are drawn; the table has all." if count > drawn else ""


def _add_fronts(page: Page, sides: Sequence[Side]) -> None:
    fronts = [front for side in sides for front in fronts_of(side)]
    for metric in FRONT_METRICS:
        page.add_chart(
            f"Speed against quality: {METRICS[metric].title}",
            "Both axes logarithmic, with 95 % intervals: over loads for the time, over windows of text for the KL. The "
            "dashed line joins what nothing else beats. Undecided: another is better, but the intervals overlap on "
            "both axes. Below a KL of 0.0001, where engines in fp32 differ by rounding, none is better.",
            front_chart([front for front in fronts if (front.axis, front.metric) == ("kl", metric)]),
            first=True,
        )
        page.add_chart(
            f"Speed against task score: {METRICS[metric].title}",
            "With 95 % intervals: over loads for the time (logarithmic), over items for the score. The dashed line "
            "joins what nothing else beats. Undecided: another is better, but the intervals overlap on both axes. "
            "Scores whose intervals overlap may still differ: the paired differences compare item by item.",
            front_chart([front for front in fronts if (front.axis, front.metric) == ("score", metric)]),
            first=True,
        )


def _add_run_charts(page: Page, run: RunColumns, sides: Sequence[Side], named: Sequence[tuple[str, SideCase]]) -> None:
    _add_fronts(page, sides)
    page.add_chart(
        "What the first token takes",
        "Means over loads of each part. Preparing text and pixels comes before it and is not in it."
        + _left_out(len(named), "cases"),
        first_token_phases(named[: charts.MOST_ROWS]), first=True,
    )  # fmt: skip
    pairs = [(_pair_label(pair, side), pair) for side in sides for pair in pairs_of(side)]
    page.add_chart(
        "Encoder-decoder against decoder-only",
        "Ratios with 95 % intervals, each against the fastest decoder path the engine has in this run."
        + _left_out(sum(len(pair.ratios) for _, pair in pairs), "ratios"),
        charts.pair_forest(pairs),
    )
    crossing = crossovers([pair for _, pair in pairs])
    page.add_chart(
        "Time to first token against input length",
        "Both axes logarithmic." + (" At an upright line the sooner family of a pair changes." if crossing else ""),
        ttft_over_input([curve for side in sides for curve in curves_of(side)], crossing),
        first=True,
    )
    left_out = _left_out(len(named), "cases")
    page.add_chart(
        "Gap before each token", "Median over all turns of all samples." + left_out, charts.token_gaps(run, named)
    )
    page.add_chart(
        "Decoding against the memory's limit",
        "The line is the read bandwidth that the same engine reaches, divided by the bytes a step must read."
        + left_out,
        charts.against_limits(list(_limit_rows(run, named))),
    )


def _pair_label(pair: Any, side: Side) -> str:
    work = pair.encoder.case.workload
    arm = f"{side.arm}: " if side.arm else ""
    parts = (pair.encoder.case.checkpoint, pair.engine, f"{work.input_tokens}/{work.output_tokens}", work.more())
    return arm + ", ".join(filter(None, parts))


def _limit_rows(run: RunColumns, named: Sequence[tuple[str, SideCase]]) -> Iterator[dict[str, Any]]:
    infos = run.cases
    for label, case in named:
        info, tpot = infos[case.case.key], case.evidence.get("tpot")
        limits = limits_of_case(info, run.record.limits)
        step_bytes = case.model.step_bytes
        if tpot is None or limits is None or step_bytes is None:
            continue
        yield {
            "case": label,
            "family": case.model.family,
            "tps": info.case.workload.rows / tpot.interval().mid,
            "limit": info.case.workload.rows * limits.bandwidth_at(step_bytes) / step_bytes,
        }


def _run_facts(run: RunColumns) -> Iterator[dict[str, Any]]:
    record = run.record
    for arm, machine in record.machines.items():
        known = [*facts(machine), *facts(record.versions.get(arm, {}), "version: ")]
        yield {"title": f"Machine{f' of arm {arm}' if arm else ''}", "facts": known}
    known = [
        ("run", record.run_id),
        ("command", " ".join(record.command) or "-"),
        ("seed", str(record.seed)),
        ("created, finished", f"{record.created}, {record.finished or 'not finished'}"),
        ("slmbench", record.slmbench_version),
        *facts(record.options),
    ]
    yield {"title": "Run", "facts": [(name, one_line(value)) for name, value in known]}
    if record.limits:
        yield {"title": "What the engines can do at best here", "facts": facts(record.limits)}


def comparison_report(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons, with one base or each with its own, as one HTML file."""
    bases = {comparison.base.name: comparison.base for comparison in comparisons}
    page = Page(
        title=f"slmbench: {', '.join(c.new.name for c in comparisons)} against {', '.join(bases)}",
        subtitle="; ".join(f"base {base.name}, {base.created}" for base in bases.values()),
        sentences=[headline(comparison) for comparison in comparisons],
        mood=_mood(comparisons),
    )
    labels = {base.name: side_labels(base) for base in bases.values()}
    for comparison in comparisons:
        base = comparison.base
        rows = rows_of(comparison)
        table = comparison_table(comparison, rows, columns_named(VERDICT_FIRST, fold=True))
        shown = html_table(f"{comparison.new.name} against {base.name}", table, [])
        mean = [f"geometric mean of new / base: {', '.join(means(comparison))}"] if comparison.means else []
        page.tables.append({**shown, "notes": [*mean, *notes(comparison)]})
        page.add_chart(
            f"Ratios: {comparison.new.name} against {base.name}",
            "New over base with 95 % intervals; the dashed lines are the gates. Click a verdict to single it out."
            + _left_out(len(comparison.judgements), "judgements, regressed and improved ones before the others,"),
            charts.ratio_forest(comparison, labels[base.name]),
            first=True,
        )
    sides = {side.name: side for comparison in comparisons for side in (comparison.base, comparison.new)}.values()
    labelled = []
    for base in bases.values():
        compared = [base, *(comparison.new for comparison in comparisons if comparison.base.name == base.name)]
        labelled += [
            (f"{labels[base.name][key]}, {side.name}", side.cases[key])
            for key in base.cases
            for side in compared
            if key in side.cases
        ]
    _add_distributions(page, labelled)
    page.tables[0]["notes"] += pair_lines(list(sides))
    page.machines = [
        {"title": f"Machine of {side.name}", "facts": [*facts(side.machine), *facts(side.versions, "version: ")]}
        for side in sides
    ]
    return page.render()


def chart_page(title: str, specs: Sequence[dict[str, Any]], table: TextTable) -> str:
    """Return charts and a table as one HTML file."""
    page = Page(title=title, subtitle="", sentences=list(table.notes) or [title])
    page.tables.append(html_table("Figures", table, []))
    for spec in specs:
        page.add_chart(title, "", spec)
    return page.render()


def _mood(comparisons: Sequence[Comparison]) -> str:
    found = {verdict for comparison in comparisons for verdict in comparison.counts()}
    if found & set(FAILING) or any(comparison.failed for comparison in comparisons):
        return "regressed"
    return "inconclusive" if found & {"inconclusive", "not judged"} else "unchanged"
