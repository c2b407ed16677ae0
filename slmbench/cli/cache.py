"""``slmbench cache``: what the artifact store holds, whether it is whole, and how to empty it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.errors import one_line

if TYPE_CHECKING:
    from slmbench.export.store import Stored

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, verify or clean the artifact cache.")

_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the artifacts, largest first."""
    from slmbench.export.store import list_artifacts

    _print(list_artifacts(), as_json)


@app.command()
def verify(as_json: _Json = False) -> None:
    """Check every file's SHA-256; exit 5 when an artifact is damaged."""
    from slmbench.errors import CannotRunError
    from slmbench.export.store import list_artifacts

    stored = list_artifacts(hashes=True)
    _print(stored, as_json)
    damaged = [item for item in stored if item.problem and not item.unfinished]
    if any(item.unfinished for item in stored):
        typer.echo(
            "unfinished: it is being written, or its writer was killed; the next export removes it, a transfer goes on"
        )
    if damaged:
        raise CannotRunError(f"{len(damaged)} of {len(stored)} damaged; `slmbench cache clean --damaged` removes them")


@app.command()
def clean(
    ids: Annotated[list[str] | None, typer.Argument(help="Artifacts by the start of their id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every artifact.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove damaged and unfinished ones.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove artifacts; they are exported anew when they are needed."""
    from slmbench.export.store import remove, select

    chosen = select(ids or [], everything=everything, damaged=damaged)
    gone = chosen if dry_run else remove(chosen)
    size = sum(item.size_bytes for item in gone)
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(gone)} artifacts, {size / 1e6:.1f} MB")
    for item in chosen:
        if item not in gone:
            typer.echo(f"{item.folder.name} stays: another process is writing or measuring it")


def _print(stored: list[Stored], as_json: bool) -> None:
    from slmbench.export.store import artifacts_dir

    if as_json:
        typer.echo(json.dumps([item.summary() for item in stored], indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in ("id", "checkpoint", "artifact", "MB", "made", "state"):
        table.add_column(column, justify="right" if column == "MB" else "left", no_wrap=column == "id")
    for item in stored:
        row = item.summary()
        size = f"{item.size_bytes / 1e6:.1f}"
        cells = (item.folder.name[:12], row["checkpoint"], row["label"], size, row["created"], item.problem or "whole")
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    Console().print(table)
    total = sum(item.size_bytes for item in stored)
    typer.echo(f"{len(stored)} artifacts, {total / 1e6:.1f} MB in {artifacts_dir()}")
