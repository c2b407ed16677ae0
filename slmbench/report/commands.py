"""What ``compare``, ``check`` and ``baseline`` do, between the command line and the judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.analysis.baseline import read_baseline, save_baseline
from slmbench.analysis.gates import Gates, parse_share, read_gates
from slmbench.analysis.metrics import Side, metric_named
from slmbench.analysis.sides import read_side, read_sides, where
from slmbench.analysis.verdicts import Comparison, compare_sides, exit_code, fingerprint_of
from slmbench.errors import BadInputError, ExitCode, one_line
from slmbench.report.check import SampleMore, judge_until_conclusive, last_line, write_outputs
from slmbench.report.comparison import (
    columns_named,
    comparison_markdown,
    comparisons_csv,
    comparisons_json,
    grouped_rows,
    pair_lines,
    print_comparison,
    sorted_rows,
)
from slmbench.report.formats import EXPORT_FORMATS, annotation_lines, export_side
from slmbench.report.text_table import escape_markdown, make_console
from slmbench.system.files import write_whole

if TYPE_CHECKING:
    from slmbench.report.text_table import Column

FORMATS = ("terminal", "markdown", "csv", "json", "html")


@dataclass(frozen=True)
class CompareRequest:
    """What ``slmbench compare`` was asked."""

    sides: tuple[str, ...]
    arms: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    sort: str = "case"
    group: str | None = None
    columns: tuple[str, ...] = ()
    gate: str | None = None
    gates: Path | None = None
    allow_different_machine: bool = False
    by_machine: bool = False
    format: str = "terminal"
    out: Path | None = None


@dataclass(frozen=True)
class CheckRequest:
    """What ``slmbench check`` was asked."""

    new: str
    baseline: str
    gate: str | None = None
    gates: Path | None = None
    metrics: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    #: Seconds to sample on while inconclusive; None: judge what is there.
    budget_s: float | None = None
    allow_missing: bool = False
    allow_different_machine: bool = False
    junit: Path | None = None
    summary: Path | None = None
    annotations: bool = False
    as_json: bool = False


def compare(request: CompareRequest) -> list[Comparison]:
    """Return every further side judged against the first.

    Raises:
        BadInputError: a side, gate, metric or condition is wrong.
        NotComparableError: other machines, or nothing in common.
    """
    metrics = [metric_named(name).name for name in request.metrics]
    gates = gates_of(request.gates, request.gate)
    sides = read_sides(request.sides, arms=request.arms, keep_tokens=request.format == "html")
    base, *others = where(sides, request.where)
    return [
        compare_sides(
            base,
            other,
            gates=gates,
            metrics=metrics or None,
            noise_floor=noise_floor(base),
            allow_different_machine=request.allow_different_machine,
        )
        for other in others
    ]


def run_compare(request: CompareRequest) -> None:
    """Carry out ``slmbench compare``: judge, then print or write.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: other machines, or nothing in common.
    """
    check_output(request)
    show_comparisons(compare(request), request)


def check_output(request: CompareRequest) -> None:
    """Check what is asked of the output, before minutes of samples are read.

    Raises:
        BadInputError: a format, column, order or group is unknown.
    """
    if request.format not in FORMATS:
        raise BadInputError(f"--format {request.format}: unknown. Known: {', '.join(FORMATS)}.")
    columns_named(request.columns)
    sorted_rows([], request.sort)
    grouped_rows([], request.group)


def show_comparisons(comparisons: Sequence[Comparison], request: CompareRequest) -> None:
    """Print or write comparisons as asked.

    Raises:
        BadInputError: the file cannot be written.
    """
    if request.format == "terminal" and request.out is None:
        _print(comparisons, request)
        return
    text = _rendered(comparisons, request, columns_named(request.columns))
    if request.out is not None:
        write_whole(request.out, text)
    else:
        import typer

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
    pairs = [f"- {escape_markdown(line)}" for line in pair_lines(_sides(comparisons))]
    return "\n".join([*parts, *pairs]) + "\n"


def run_check(request: CheckRequest, sample_more: SampleMore | None = None) -> ExitCode:
    """Carry out ``slmbench check``: judge, write what was asked for, print, and return the exit code.

    ``sample_more`` takes further samples of the new side; without it ``--until-conclusive`` is refused.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: other machines (unless they are to be shown), or nothing in common.
    """
    metrics = [metric_named(name).name for name in request.metrics]
    gates = gates_of(request.gates, request.gate)

    def judge(share: float) -> Comparison:
        base, new = where(read_sides([request.baseline, request.new]), request.where)
        return compare_sides(
            base,
            new,
            gates=replace(gates, alpha=gates.alpha * share),
            metrics=metrics or None,
            noise_floor=noise_floor(base),
            allow_different_machine=request.allow_different_machine,
        )

    if request.budget_s is None:
        comparison = judge(1.0)
    elif sample_more is None:
        raise BadInputError(f"--until-conclusive: {request.new} cannot be sampled on; it takes a run's folder")
    else:
        comparison = judge_until_conclusive(judge, sample_more, request.budget_s)
    code = exit_code([comparison], allow_missing=request.allow_missing)
    write_outputs([comparison], junit=request.junit, summary=request.summary)
    _print_check(comparison, code, request)
    return code


def _print_check(comparison: Comparison, code: ExitCode, request: CheckRequest) -> None:
    from rich.text import Text

    if request.as_json:
        print(comparisons_json([comparison]))
        return
    console = make_console()
    print_comparison(console, comparison, sort="verdict")
    console.print(Text(one_line(last_line(comparison, code)), style="bold"))
    if request.annotations:
        print("\n".join(annotation_lines([comparison])))


def gates_of(file: Path | None, default: str | None) -> Gates:
    """Return the gates of a file, with another default if one is given.

    Raises:
        BadInputError: the file or the default is wrong.
    """
    gates = read_gates(file) if file else Gates()
    return gates.with_default(parse_share(default, "--gate") if default is not None else None)


def save(name: str, out: Path, conditions: Sequence[str]) -> str:
    """Save a side as a baseline and return what to tell of it.

    Raises:
        BadInputError: not a run, or the file cannot be written.
        NotComparableError: nothing in it could be judged against.
    """
    (side,) = where([read_side(name)], conditions)
    if not side.cases:
        raise BadInputError(f"{name}: no case fulfils --where {' '.join(conditions)}")
    save_baseline(side, out)
    return f"{out}: {len(side.cases)} cases, {out.stat().st_size / 1000:.1f} kB"


def show(file: Path) -> None:
    """Print the cases of a baseline with their figures.

    Raises:
        BadInputError: not a baseline.
    """
    from rich.table import Table
    from rich.text import Text

    side = read_baseline(file)
    table = Table(box=None, header_style="bold")
    for header in ("case", "loads", "ttft ms", "tpot ms"):
        table.add_column(header, justify="left" if header == "case" else "right")
    for key, case in side.cases.items():
        ttft, tpot = case.evidence.get("ttft"), case.evidence.get("tpot")
        figures = [f"{e.interval().mid * 1e3:.4g}" if e else "-" for e in (ttft, tpot)]
        table.add_row(Text(one_line(key)), str(ttft.logs.size if ttft else 0), *figures)
    console = make_console()
    console.print(Text(f"from {side.run_id.removeprefix('baseline of ')}, {side.created}"))
    console.print(table)


def export(name: str, kind: str) -> str:
    """Return a run in another tool's format.

    Raises:
        BadInputError: not a run, or an unknown format.
        NotComparableError: an empty run.
    """
    for known in EXPORT_FORMATS:
        if kind == known:
            return export_side(read_side(name), known)
    raise BadInputError(f"--format {kind}: unknown. Known: {', '.join(EXPORT_FORMATS)}.")


def noise_floor(side: Side) -> dict[str, float]:
    """Return how far identical runs lie apart on the side's machine, by metric; empty where never calibrated."""
    from slmbench.machine.noise import noise_floors

    fingerprint = fingerprint_of(side)
    return noise_floors(fingerprint) if fingerprint else {}
