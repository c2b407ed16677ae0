"""``slmbench calibrate``."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    runs: Annotated[int, typer.Option(help="Identical runs to hold against each other, 3 or more.")] = 6,
    backend: Annotated[
        list[str] | None, typer.Option(help="Repeatable.", show_default="those of the smoke suite")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure the noise floor of this machine: how far identical runs lie apart. Takes minutes.

    Kept per machine; compare and check call nothing below it a change.
    """
    from rich.console import Console

    from slmbench.backend import load_backend
    from slmbench.running.calibrate import calibrate as measure

    for name in backend or ():
        load_backend(name)
    progress = Console(stderr=True)
    floor = measure(runs=runs, backends=backend or (), say=lambda text: progress.print(text, markup=False))
    if as_json:
        typer.echo(floor.model_dump_json(indent=1))
        return
    from rich.table import Table

    table = Table(box=None, caption=f"{floor.runs} identical runs of {len(floor.cases)} cases, kept for this machine")
    table.add_column("metric")
    table.add_column("95 % of pairs within", justify="right")
    for metric, share in floor.metrics.items():
        table.add_row(metric, f"{share:.1%}")
    Console().print(table)
    if floor.disturbed > 0.1:
        progress.print(
            f"{floor.disturbed:.0%} of the samples were disturbed by other work, so this floor is too high: "
            "see `slmbench doctor`, then calibrate again"
        )
