"""``slmbench baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def baseline() -> None:
    """Keep a run as a small file that `slmbench check --baseline` judges against."""


@app.command()
def save(
    run: Annotated[str, typer.Argument(help="A run's folder, or RUN@ARM.")],
    out: Annotated[Path, typer.Argument(help="The baseline file.")] = Path("baseline.json"),
    where: Annotated[list[str] | None, typer.Option(help="FIELD=GLOB or FIELD!=GLOB. Repeatable.")] = None,
) -> None:
    """Save a run as a baseline: per case and load the figures that the test needs, a few kB."""
    from slmbench.report.commands import save

    typer.echo(save(run, out, tuple(where or ())))


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A baseline file.")]) -> None:
    """Print what a baseline holds."""
    from slmbench.report.commands import show

    show(file)
