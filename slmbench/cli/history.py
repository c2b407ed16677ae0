"""``slmbench history``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmbench.cli._typed import SETTINGS

app = typer.Typer(add_completion=False)


@app.command()
def history(
    runs: Annotated[list[str], typer.Argument(help="Runs, or folders of runs.")],
    metric: Annotated[str, typer.Option(help="What to follow.")] = "tpot",
    where: Annotated[
        list[str] | None, typer.Option(help="FIELD=GLOB[,GLOB] or FIELD!=GLOB. Repeatable.", **SETTINGS)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .html file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Follow a metric over many runs and find where it changed."""
    from slmbench.report.history import run_history

    run_history(runs, metric, conditions=where or (), plot=plot, markdown=markdown, as_json=as_json)
