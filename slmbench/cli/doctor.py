"""``slmbench doctor``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from slmbench.machine.finding import Finding

app = typer.Typer(add_completion=False)

_MARKS = {"wrong": "bold red", "noise": "yellow", "note": "dim"}


@app.command()
def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 5 where figures would be wrong or noisy.")
    ] = False,
    observe: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to watch the machine.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say why a run is slow, noisy or refused here, and what to do: machine, versions, drivers, instruction sets.

    Findings never stop a run: the exit code is 0, unless --strict asks for 5.
    """
    from slmbench.machine.doctor import examine

    findings = examine(observe)
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
    else:
        from slmbench.report.text_table import make_console

        _print(findings, make_console())
    disturbed = any(finding.severity != "note" for finding in findings)
    raise typer.Exit(ExitCode.FAILED if strict and disturbed else ExitCode.OK)


def _print(findings: list[Finding], console: Console) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not findings:
        console.print("nothing here would disturb a run")
    for finding in findings:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(
            Text(f"{finding.severity:5}", style=_MARKS[finding.severity]), Text(f"{finding.name}: {finding.what}")
        )
        console.print(grid)
        console.print(Padding(Text(f"why: {finding.why}\ndo:  {finding.remedy}", style="dim"), (0, 0, 0, 7)))
