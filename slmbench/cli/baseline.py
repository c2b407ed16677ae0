"""``slmbench baseline``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from slmbench.analysis import sides
from slmbench.analysis.baseline import is_baseline, read_baseline, save_baseline
from slmbench.analysis.judgement import DISTURBED_BOUND
from slmbench.analysis.metrics import Side
from slmbench.cli._typed import SETTINGS
from slmbench.errors import BadInputError, SlmbenchError, amount, one_line
from slmbench.report.text_table import make_console

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def baseline() -> None:
    """Keep a run as a small file that `slmbench check --baseline` judges against."""


@app.command()
def save(
    run: Annotated[str, typer.Argument(help="A run's folder, or RUN@ARM.")],
    out: Annotated[Path, typer.Argument(help="The baseline file.")] = Path("baseline.json"),
    where: Annotated[
        list[str] | None, typer.Option(help="FIELD=GLOB[,GLOB] or FIELD!=GLOB. Repeatable.", **SETTINGS)
    ] = None,
) -> None:
    """Save a run as a baseline: per case and load the figures that the test needs, a few kB."""
    line, warnings = save_named(run, out, tuple(where or ()))
    typer.echo(one_line(line))
    for warning in warnings:
        typer.echo(one_line(f"warning: {warning}"), err=True)


@app.command()
def show(file: Annotated[str, typer.Argument(help="A baseline file, or a run that may become one.")]) -> None:
    """Print what a baseline holds."""
    _show(file)


def save_named(name: str, out: Path, conditions: Sequence[str]) -> tuple[str, list[str]]:
    """Save a side as a baseline; return a line that says what was saved, and what to know before it is relied on.

    A file that is there is replaced: a job that makes a new baseline writes to the name of the old one.

    Raises:
        BadInputError: not a run, or the file cannot be written.
        NotComparableError: nothing in it could be judged against.
    """
    (side,) = sides.where([sides.read_side(name)], conditions)
    replaced = _replaced(out)
    save_baseline(side, out)
    saved = f"{out}: {amount(len(side.cases), 'case')}, {out.stat().st_size / 1000:.1f} kB{replaced}"
    return saved, [*side.warnings, *_unsure(side)]


def _replaced(out: Path) -> str:
    """Return what is lost when the file is written, as the end of a line; empty where nothing is."""
    # What stdout is redirected into is added to; so is what is no regular file.
    try:
        if out.is_relative_to("/dev") or not out.is_file() or not out.stat().st_size:
            return ""
        if not is_baseline(out):
            return "; replaced a file that was no baseline"
        return f"; replaced the baseline of {read_baseline(out).created}"
    except BadInputError:
        return "; replaced a baseline that could not be read"
    except OSError:
        # Whether it can be written is for the writing to say.
        return ""


def _what_helps(side: Side) -> str:
    """Return what gives narrower intervals: a number of samples that is fixed is not changed by a budget."""
    from slmbench.plan.request import RunRequest, request_from_file, requested_suite
    from slmbench.running.case_state import REPEAT_LOADS

    try:
        # Nothing is run: the suite alone is looked at.
        request = request_from_file(side.options, side.name, RunRequest(trust_remote_code=True))
        suite = requested_suite(request)
    except SlmbenchError:
        # Of another version, or its suite is gone.
        return "for longer"
    if request.quick:
        return "by `slmbench run` without --quick"
    if request.repeat:
        return f"by `slmbench run` without --repeat, which takes {REPEAT_LOADS} loads at most"
    if suite.repeat:
        return f"with a suite that has no `repeat` ({suite.name} has, and takes {REPEAT_LOADS} loads at most)"
    return "by `slmbench run` with a larger --budget"


def _unsure(side: Side) -> Iterator[str]:
    """Yield which cases a check could hardly judge against, and what to do, where there are any."""
    cases = side.cases.values()
    wide = sum(bool(case.converged) and not any(case.converged.values()) for case in cases)
    disturbed = sum(case.disturbed > DISTURBED_BOUND for case in cases)
    kinds = ((wide, "did not converge"), (disturbed, f"had over {DISTURBED_BOUND:.0%} of samples disturbed"))
    found = [f"{count} of {amount(len(cases), 'case')} {what}" for count, what in kinds if count]
    if found:
        yield (
            f"{', '.join(found)}: a check against them may be inconclusive however good the new run is; "
            f"measure again on a quiet machine{f', {_what_helps(side)},' if wide else ''} and save that"
        )


def _show(file: str) -> None:
    """Print the cases of a baseline, or of a run, with their figures.

    Raises:
        BadInputError: neither.
        NotComparableError: an empty run.
    """
    from rich.table import Table
    from rich.text import Text

    side = sides.read_side(file)
    table = Table(box=None, header_style="bold")
    for header in ("case", "loads", "ttft ms", "tpot ms"):
        table.add_column(header, justify="left" if header == "case" else "right")
    for key, case in side.cases.items():
        ttft, tpot = case.evidence.get("ttft"), case.evidence.get("tpot")
        figures = [f"{e.interval().mid * 1e3:.4g}" if e else "-" for e in (ttft, tpot)]
        table.add_row(Text(one_line(key)), str(ttft.logs.size if ttft else 0), *figures)
    console = make_console()
    # The name of a run's data has its time in it.
    console.print(Text(one_line(f"from {side.run_id.removesuffix(f' of {side.created}')}, measured {side.created}")))
    console.print(table)
