"""``slmbench compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.analysis import sides as named
from slmbench.analysis.gates import DEFAULT_GATE_TEXT, gates_of
from slmbench.analysis.metrics import Side
from slmbench.analysis.noise import read_floor
from slmbench.analysis.quality_metrics import judged_metric
from slmbench.analysis.verdicts import Comparison, compare_sides, fingerprint_of
from slmbench.cli._typed import NAMES, SETTINGS
from slmbench.errors import BadInputError, NotComparableError, one_line
from slmbench.report.comparison import (
    comparison_markdown,
    comparisons_csv,
    comparisons_json,
    grouped_rows,
    pair_lines,
    print_comparison,
    sorted_rows,
)
from slmbench.report.comparison_columns import columns_named
from slmbench.report.text_table import make_console, markdown_sentence
from slmbench.system.collector import collector_paused
from slmbench.system.files import check_writable, write_output

if TYPE_CHECKING:
    from slmbench.analysis.machines import Shelf
    from slmbench.fleet.read import Machines
    from slmbench.report.text_table import Column

app = typer.Typer(add_completion=False)

FORMATS = ("terminal", "markdown", "csv", "json", "html")
#: Judges the second side against the first, with that share of the check's alpha for these sides among others, and
#: that share of all error rates for this look at them.
JudgeSides = Callable[[Side, Side, float, float], Comparison]


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """How to judge, as ``compare`` and ``check`` are both asked."""

    metrics: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    gate: str | None = None
    gates: Path | None = None
    allow_different_machine: bool = False
    #: A=B: pairs of cases by hand.
    match: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompareRequest(JudgeRequest):
    """What ``slmbench compare`` was asked."""

    sides: tuple[str, ...]
    arms: tuple[str, ...] = ()
    sort: str = "case"
    group: str | None = None
    columns: tuple[str, ...] = ()
    by_machine: bool = False
    format: str = "terminal"
    out: Path | None = None


Match = Annotated[
    list[str] | None,
    typer.Option(
        help="A=B: pair cases by hand: A in the base's key, B in its place in the other. Repeatable.", **SETTINGS
    ),
]


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(help="The base, then what to compare with it: runs, RUN@ARM, baseline files, or fleet runs."),
    ],
    arms: Annotated[
        list[str] | None, typer.Option(help="Compare the arms of one run, the base first: base,new.", **NAMES)
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics.", show_default="ttft, tpot and quality", **NAMES)
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="FIELD=GLOB[,GLOB] or FIELD!=GLOB. Repeatable.", **SETTINGS)
    ] = None,
    sort: Annotated[str, typer.Option(help="case, ratio, verdict, p, metric or a field of the case.")] = "case",
    group: Annotated[str | None, typer.Option(help="Group rows by a field of the case, or by metric.")] = None,
    columns: Annotated[list[str] | None, typer.Option(help="Columns to show.", **NAMES)] = None,
    gate: Annotated[str | None, typer.Option(help="What counts as a change.", show_default=DEFAULT_GATE_TEXT)] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates per metric and case, as YAML.")] = None,
    match: Match = None,
    allow_different_machine: Annotated[
        bool, typer.Option("--allow-different-machine", help="Show runs from different machines, without verdicts.")
    ] = False,
    by_machine: Annotated[
        bool, typer.Option("--by-machine", help="Compare runs from different machines, one column per machine.")
    ] = False,
    format: Annotated[str, typer.Option(help="terminal, markdown, csv, json or html.")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
) -> None:
    """Compare runs: ratios with intervals, and a verdict for each metric of each case.

    One fleet's run: its machines side by side. Two: each machine before and after.
    """
    request = CompareRequest(
        sides=tuple(sides),
        arms=tuple(arms or ()),
        metrics=tuple(metric or ()),
        where=tuple(where or ()),
        sort=sort,
        group=group,
        columns=tuple(columns or ()),
        gate=gate,
        gates=gates,
        match=tuple(match or ()),
        allow_different_machine=allow_different_machine,
        by_machine=by_machine,
        format=format,
        out=out,
    )
    run_compare(request)


def judging(request: JudgeRequest) -> JudgeSides:
    """Return what judges two sides as asked.

    Raises:
        BadInputError: a metric or gate is wrong.
    """
    metrics = [judged_metric(name) for name in request.metrics]
    gates = gates_of(request.gates, request.gate)

    def judge(base: Side, new: Side, share: float, look: float) -> Comparison:
        base, new = named.chosen([base, new], request.where)
        return compare_sides(
            base,
            new,
            gates=replace(gates, alpha=gates.alpha * share),
            metrics=metrics or None,
            floor=read_floor(fingerprint_of(base)),
            look=look,
            allow_different_machine=request.allow_different_machine,
            match=request.match,
        )

    return judge


@collector_paused()
def run_compare(request: CompareRequest) -> None:
    """Judge, then print or write.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: other machines, or nothing in common.
    """
    check_output(request)
    if request.by_machine or any(map(named.is_fleet, request.sides)):
        _compare_machines(request)
        return
    judge = judging(request)
    sides = named.read_sides(request.sides, arms=request.arms, keep_tokens=request.format == "html")
    base, *others = named.where(sides, request.where)
    _show([judge(base, other, 1.0, 1.0) for other in others], request)


def check_output(request: CompareRequest) -> None:
    """Check what is asked of the output, before minutes of samples are read.

    Raises:
        BadInputError: a format, column, order or group is unknown, or the file cannot be written.
    """
    if request.format not in FORMATS:
        raise BadInputError(f"--format {request.format}: unknown. Known: {', '.join(FORMATS)}.")
    if request.out is not None:
        check_writable(request.out)
    columns_named(request.columns)
    sorted_rows([], request.sort)
    grouped_rows([], request.group)


def _show(comparisons: Sequence[Comparison], request: CompareRequest) -> None:
    """Print or write comparisons as asked.

    Raises:
        BadInputError: the file cannot be written.
    """
    if request.format == "terminal" and request.out is None:
        _print(comparisons, request)
        return
    text = _rendered(comparisons, request, columns_named(request.columns))
    if request.out is not None:
        write_output(request.out, text)
    else:
        typer.echo(text, nl=False)


def _print(comparisons: Sequence[Comparison], request: CompareRequest) -> None:
    from rich.text import Text

    console = make_console()
    for comparison in comparisons:
        columns = columns_named(request.columns)
        print_comparison(console, comparison, sort=request.sort, group=request.group, columns=columns)
    for line in pair_lines(_sides(comparisons)):
        console.print(Text(line))


def _sides(comparisons: Sequence[Comparison]) -> list[Side]:
    """Return every side once: where machines are compared, each has its base."""
    sides = [side for comparison in comparisons for side in (comparison.base, comparison.new)]
    return list({side.name: side for side in sides}.values())


def _rendered(comparisons: Sequence[Comparison], request: CompareRequest, columns: tuple[Column, ...]) -> str:
    if request.format == "csv":
        return comparisons_csv(comparisons)
    if request.format == "json":
        return comparisons_json(comparisons) + "\n"
    if request.format == "html":
        from slmbench.report.html import comparison_report

        return comparison_report(comparisons)
    parts = [comparison_markdown(c, sort=request.sort, group=request.group, columns=columns) for c in comparisons]
    pairs = [f"- {markdown_sentence(line)}" for line in pair_lines(_sides(comparisons))]
    return "\n".join([*parts, *pairs]) + "\n"


def _compare_machines(request: CompareRequest) -> None:
    """Carry out ``slmbench compare`` where machines are compared: one shelf, or one run of a shelf against another.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: nothing can be compared.
    """
    check_output(request)
    fleets = [name for name in request.sides if named.is_fleet(name)]
    if len(fleets) > 1 and not request.by_machine:
        if len(fleets) < len(request.sides):
            plain = next(name for name in request.sides if name not in fleets)
            raise BadInputError(f"{plain}: is one machine's run and {fleets[0]} a fleet's; --by-machine groups them")
        _compare_fleets(request)
        return
    if len(fleets) < len(request.sides) and not request.by_machine:
        raise BadInputError(f"{fleets[0]}: is a fleet's run; --by-machine groups it with those of other machines")
    idle = {
        "--sort": request.sort != "case",
        "--group": request.group is not None,
        "--columns": bool(request.columns),
        "--gate": request.gate is not None,
        "--gates": request.gates is not None,
        "--arms": bool(request.arms),
        "--match": bool(request.match),
    }
    if any(idle.values()):
        raise BadInputError(
            f"{', '.join(n for n, given in idle.items() if given)}: not supported when machines are compared"
        )
    from slmbench.fleet.report import shelf_from

    shelf = shelf_from(request.sides, metrics=request.metrics, conditions=request.where)
    _show_shelf(shelf, request, ", ".join(Path(name).resolve().name for name in request.sides))


def _show_shelf(shelf: Shelf, request: CompareRequest, title: str) -> None:
    from slmbench.report.machines_table import print_shelf

    if request.format == "terminal" and request.out is None:
        print_shelf(make_console(), shelf)
        return
    text = _rendered_shelf(shelf, request.format, title)
    if request.out is not None:
        write_output(request.out, text)
    else:
        typer.echo(text, nl=False)


def _rendered_shelf(shelf: Shelf, kind: str, title: str) -> str:
    if kind in ("csv", "json", "html"):
        from slmbench.report.machines_formats import shelf_csv, shelf_json, shelf_page

        makers: dict[str, Callable[[], str]] = {
            "csv": lambda: shelf_csv(shelf),
            "json": lambda: shelf_json(shelf) + "\n",
            "html": lambda: shelf_page(shelf, title),
        }
        return makers[kind]()
    from slmbench.report.machines_table import shelf_markdown

    return shelf_markdown(shelf)


def _compare_fleets(request: CompareRequest) -> None:
    """Print or write every machine before and after.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: no machine of both can be compared.
    """
    if request.arms:
        raise BadInputError("--arms goes with a single run")
    from slmbench.fleet.check import judge_fleets
    from slmbench.fleet.read import read_fleets

    judge = judging(request)
    base, *others = fleets_with(read_fleets(request.sides), request.where)
    found = [judge_fleets(base, other, judge) for other in others]
    comparisons = [comparison for one in found for comparison in one.comparisons]
    problems = list(dict.fromkeys(problem for one in found for problem in one.problems))
    if not comparisons:
        raise NotComparableError("\n".join(["no machine of both can be compared:", *problems]))
    _show(comparisons, request)
    warn(problems)


def fleets_with(fleets: list[Machines], conditions: Sequence[str]) -> list[Machines]:
    """Return the fleets as they are, if any machine of any has a case that is asked for.

    Raises:
        BadInputError: none has.
    """
    named.where([side for fleet in fleets for sides in fleet.sides.values() for side in sides], conditions)
    return fleets


def warn(problems: Sequence[str]) -> None:
    """Print on stderr which machines could not be judged."""
    for problem in problems:
        typer.echo(f"not comparable: {one_line(problem)}", err=True)
