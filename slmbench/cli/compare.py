"""``slmbench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(help="The base, then what is compared with it: runs, RUN@ARM, baseline files; or fleets' runs."),
    ],
    arms: Annotated[str | None, typer.Option(help="Arms of the one run, the base first: base,new.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Repeatable.  [default: ttft, tpot]")] = None,
    where: Annotated[list[str] | None, typer.Option(help="FIELD=GLOB or FIELD!=GLOB. Repeatable.")] = None,
    sort: Annotated[str, typer.Option(help="case, ratio, verdict, p, metric or a field of the case.")] = "case",
    group: Annotated[str | None, typer.Option(help="A field of the case, or metric.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to show, with commas between.")] = None,
    gate: Annotated[str | None, typer.Option(help="What counts as a change.  [default: 5%]")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates per metric and case, as YAML.")] = None,
    allow_different_machine: Annotated[
        bool, typer.Option("--allow-different-machine", help="Show runs of unlike machines, without verdicts.")
    ] = False,
    by_machine: Annotated[
        bool, typer.Option("--by-machine", help="Runs of unlike machines: a column each, no figure mixed.")
    ] = False,
    format: Annotated[str, typer.Option(help="terminal, markdown, csv, json or html.")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="Write there instead of printing.")] = None,
) -> None:
    """Compare runs: ratios with intervals, and a verdict for each metric of each case.

    One fleet's run: its machines side by side. Two: each machine before and after.
    """
    from slmbench.analysis.sides import is_fleet
    from slmbench.report.commands import CompareRequest, run_compare

    request = CompareRequest(
        sides=tuple(sides),
        arms=tuple(arms.split(",")) if arms else (),
        metrics=tuple(metric or ()),
        where=tuple(where or ()),
        sort=sort,
        group=group,
        columns=tuple(columns.split(",")) if columns else (),
        gate=gate,
        gates=gates,
        allow_different_machine=allow_different_machine,
        by_machine=by_machine,
        format=format,
        out=out,
    )
    if by_machine or any(map(is_fleet, sides)):
        from slmbench.fleet.shelf import run_shelf_compare

        run_shelf_compare(request)
        return
    run_compare(request)
