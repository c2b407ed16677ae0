"""``slmbench models``: the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)
CAPTION = (
    "vision: parameters of the part that reads pictures; fits: this machine has memory now to run it in fp32 and to "
    "export it (run: to run it only)"
)


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
    from slmbench.models.catalog import entries, overview
    from slmbench.models.shipped_golden import entry_needs_torch
    from slmbench.system.extras import installed_version, missing

    needs_torch = {entry.name: entry_needs_torch(entry) for entry in entries()}
    rows = [row | {"export_needs_torch": needs_torch[row["name"]]} for row in overview()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from slmbench.report.text_table import Column, folded, make_console, print_table

    torch = installed_version("torch") is not None
    columns = (
        Column("name", lambda row: str(row["name"]), numeric=False, identity=True),
        Column("family", lambda row: str(row["family"]), numeric=False, weight=9),
        Column("parameters", lambda row: _millions(row["parameter_count"]), weight=9),
        Column("vision", lambda row: _millions(row["vision_parameter_count"]), weight=9),
        Column("shape of", lambda row: str(row["shape_of"]), numeric=False, weight=3),
        Column("pair", lambda row: row["pair"] or "-", numeric=False, weight=4),
        Column("fits", partial(_fits, torch=torch), numeric=False, weight=9),
    )
    console = make_console()
    table = folded(columns, rows, console.width, "--json")
    notes = [*table.notes, CAPTION, *([] if torch else [f"* its export needs torch: {missing('torch')}"])]
    print_table(console, replace(table, notes=notes))


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}M" if count else "-"


def _fits(row: Mapping[str, Any], *, torch: bool) -> str:
    if row["fits_export"]:
        return "yes" if torch or not row["export_needs_torch"] else "yes*"
    return "run" if row["fits_run"] else "no"


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
