"""``slmbench models``: the catalog."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
CAPTION = "vision: the part that reads pictures; fits: memory this machine has now, for one fp32 copy and its export"


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    architectures: Annotated[
        bool, typer.Option("--architectures", help="Which architectures each exporter takes, as tests found it.")
    ] = False,
) -> None:
    """List the catalog: architectures with seeded random weights, and whether they fit in this machine's memory."""
    if architectures:
        _print_architectures(as_json)
        return
    from slmbench.models.catalog import overview

    rows = overview()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, caption=CAPTION)
    for column in ("name", "family", "parameters", "shape of", "pair", "fits"):
        table.add_column(column, justify="right" if column == "parameters" else "left", no_wrap=column == "name")
    for row in rows:
        millions = f"{row['parameter_count'] / 1e6:,.1f}M"
        fits = "run, export" if row["fits_export"] else "run" if row["fits_run"] else "no"
        if row["vision_parameter_count"]:
            millions += f" + {row['vision_parameter_count'] / 1e6:,.1f}M vision"
        table.add_row(row["name"], row["family"], millions, row["shape_of"], row["pair"] or "", fits)
    Console().print(table)


def _print_architectures(as_json: bool) -> None:
    from slmbench.models.known_routes import AGREE, rows
    from slmbench.report.text_table import make_console

    found = rows()
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
        return
    from rich.table import Table

    titles = list(found[0].cells)
    table = Table(box=None, caption="agree: the golden tokens came out; a number is the reason below")
    table.add_column("architecture", no_wrap=True)
    for title in titles:
        table.add_column(title)
    reasons: dict[str, int] = {}
    for row in found:
        shown = [
            "agree" if cell == AGREE else str(reasons.setdefault(cell, len(reasons) + 1))
            for cell in (row.cells[title] for title in titles)
        ]
        table.add_row(row.name, *shown)
    console = make_console()
    console.print(table)
    for reason, number in reasons.items():
        console.print(f"{number}. {reason}", markup=False)
