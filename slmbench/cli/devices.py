"""``slmbench devices``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.cli._typed import NAMES
from slmbench.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from slmbench.machine.devices import Devices

app = typer.Typer(add_completion=False)


@app.command()
def devices(
    backend: Annotated[list[str] | None, typer.Option(help="Ask these backends alone.", **NAMES)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List devices with engine, driver and memory, and what is missing for the others."""
    from slmbench.backend import load_backend
    from slmbench.machine.devices import list_devices

    for name in backend or ():
        load_backend(name)
    found = list_devices(backend)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from slmbench.report.text_table import make_console

    _print(found, make_console())


def _print(found: Devices, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in ("device", "backend", "engine's name", "what it is", "memory", "driver"):
        table.add_column(column, justify="right" if column == "memory" else "left", overflow="fold")
    for row in (row for row in found.rows if row.available):
        memory = f"{row.memory_bytes / 2**30:.0f} GiB" if row.memory_bytes else ""
        cells = (row.device, row.backend or "", row.engine_name, row.detail, memory, row.driver or "")
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    console.print(table)
    absent = [row for row in found.rows if not row.available]
    if absent:
        console.print("\nnot usable here:")
    for row in absent:
        who = f"{row.device} {row.engine_name}" + (f" ({row.backend})" if row.backend else "")
        console.print(Text("  " + one_line(f"{who}: {row.detail}")))
        if row.remedy:
            console.print(Text(f"    needs: {one_line(row.remedy)}"))
    for name, reason in found.broken.items():
        console.print(Text(one_line(f"  backend {name} could not be asked: {reason}")))
    for line in found.system:
        console.print(Text(one_line(f"the system lists: {line}")))
