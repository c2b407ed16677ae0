"""``slmbench baseline``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slmbench.analysis import sides
from slmbench.analysis.baseline import save_baseline
from slmbench.analysis.metrics import SideCase
from slmbench.analysis.verdicts import DISTURBED_BOUND
from slmbench.cli._typed import SETTINGS
from slmbench.errors import amount, one_line
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
    line, unsure = save_named(run, out, tuple(where or ()))
    typer.echo(line)
    if unsure:
        typer.echo(f"warning: {unsure}", err=True)


@app.command()
def show(file: Annotated[str, typer.Argument(help="A baseline file, or a run that may become one.")]) -> None:
    """Print what a baseline holds."""
    _show(file)


def save_named(name: str, out: Path, conditions: Sequence[str]) -> tuple[str, str]:
    """Save a side as a baseline; return a line that says what was saved, and one about what is too uncertain in it.

    Raises:
        BadInputError: not a run, or the file cannot be written.
        NotComparableError: nothing in it could be judged against.
    """
    (side,) = sides.where([sides.read_side(name)], conditions)
    save_baseline(side, out)
    saved = f"{out}: {amount(len(side.cases), 'case')}, {out.stat().st_size / 1000:.1f} kB"
    return saved, _unsure(list(side.cases.values()))


def _unsure(cases: Sequence[SideCase]) -> str:
    """Return which cases a check could hardly judge against, and what to do; empty where there is none."""
    wide = sum(bool(case.converged) and not any(case.converged.values()) for case in cases)
    disturbed = sum(case.disturbed > DISTURBED_BOUND for case in cases)
    kinds = ((wide, "did not converge"), (disturbed, f"had over {DISTURBED_BOUND:.0%} of samples disturbed"))
    found = [f"{count} of {amount(len(cases), 'case')} {what}" for count, what in kinds if count]
    return (
        f"{', '.join(found)}: a check against them may be inconclusive whatever the new run is like; "
        "measure again on a quiet machine, with a larger --budget, and save that"
        if found
        else ""
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
