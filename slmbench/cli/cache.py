"""``slmbench cache``: what the artifact store holds, whether it is whole, and how to empty it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from slmbench.errors import amount, one_line

if TYPE_CHECKING:
    from slmbench.export.artifact_store import Stored
    from slmbench.fleet.leftovers import Left

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, verify or clean the artifact cache.")

_Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the artifacts, largest first, and what a fleet left there."""
    from slmbench.export.artifact_store import list_artifacts
    from slmbench.fleet.leftovers import list_left

    _print(list_artifacts(), list_left(), as_json)


@app.command()
def verify(as_json: _Json = False) -> None:
    """Check every file's SHA-256; exit 5 when an artifact is damaged."""
    from slmbench.errors import CannotRunError
    from slmbench.export.artifact_store import list_artifacts
    from slmbench.fleet.leftovers import list_left

    stored, left = list_artifacts(hashes=True), list_left(hashes=True)
    _print(stored, left, as_json)
    damaged = [item for item in stored if item.problem and not item.unfinished and item.readable]
    if any(item.unfinished for item in stored):
        typer.echo(
            "unfinished: it is being written, or its writer was killed; the next export removes it, a transfer resumes"
        )
    if changed := [one.name for one in left if one.problem]:
        raise CannotRunError(f"{changed[0]}: was changed in the cache; `slmbench cache clean --fleet` removes it")
    if damaged:
        raise CannotRunError(f"{len(damaged)} of {len(stored)} damaged; `slmbench cache clean --damaged` removes them")
    if closed := [item for item in stored if not item.readable]:
        raise CannotRunError(f"{len(closed)} of {len(stored)} cannot be read by this user, so nothing is known of them")


@app.command()
def clean(
    ids: Annotated[list[str] | None, typer.Argument(help="Artifacts by the start of their id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every artifact.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove damaged and unfinished ones.")] = False,
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="Remove what fleets left: carried files, runs nobody fetched, half transfers."),
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Remove what engines compiled of artifacts; they compile it again.")
    ] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Remove the predictions that quality is compared with.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove artifacts; they are exported, or received, again when they are needed.

    What engines compiled of an artifact goes with it, and counts.
    """
    if references:
        _clean_references(dry_run)
    if ids or everything or damaged or fleet or not (references or compiled):
        _clean_artifacts(ids or [], everything, damaged, fleet, dry_run)
    if compiled:
        _clean_compiled(dry_run)
    if fleet:
        _clean_left(dry_run)


def _clean_artifacts(ids: list[str], everything: bool, damaged: bool, fleet: bool, dry_run: bool) -> None:
    from slmbench.export.artifact_store import list_artifacts, remove, select

    chosen = select(ids, everything=everything, damaged=damaged) if ids or everything or damaged or not fleet else []
    if fleet:
        chosen += [one for one in list_artifacts() if one.transfer and one not in chosen]
    gone = chosen if dry_run else remove(chosen)
    _say_removed(dry_run, amount(len(gone), "artifact"), sum(item.size_bytes + item.compiled_bytes for item in gone))
    for item in chosen:
        if item not in gone:
            typer.echo(f"{item.folder.name} stays: another process is writing or measuring it")


def _clean_compiled(dry_run: bool) -> None:
    from slmbench.export.compiled_copies import compiled_folders, remove_compiled

    found = compiled_folders()
    gone = [(folder, size) for folder, size in found if dry_run or remove_compiled(folder)]
    _say_removed(dry_run, f"what engines compiled of {amount(len(gone), 'artifact')}", sum(size for _, size in gone))
    for folder, _ in found:
        if folder not in [one for one, _ in gone]:
            typer.echo(f"{folder.name} stays: another process is measuring it")


def _clean_references(dry_run: bool) -> None:
    from slmbench.evaluation.stored_reference import remove_references, stored_references

    found = stored_references()
    if not dry_run:
        remove_references()
    _say_removed(dry_run, amount(len(found), "reference"), sum(size for _, size in found))


def _say_removed(dry_run: bool, what: str, size_bytes: int) -> None:
    typer.echo(f"{'would remove' if dry_run else 'removed'} {what}, {size_bytes / 1e6:.1f} MB")


def _clean_left(dry_run: bool) -> None:
    from slmbench.fleet.leftovers import list_left, remove_left

    left = list_left()
    gone = left if dry_run else remove_left(left)
    _say_removed(dry_run, f"{amount(len(gone), 'thing')} that a fleet left", sum(one.size_bytes for one in gone))
    for one in left:
        if one not in gone:
            typer.echo(f"{one.name} stays: it is measured or arrives now")


def _print_left(left: list[Left]) -> None:
    from rich.table import Table
    from rich.text import Text

    from slmbench.report.text_table import make_console

    table = Table(box=None)
    for column in ("from a fleet", "name", "MB", "days"):
        table.add_column(column, justify="right" if column in ("MB", "days") else "left")
    for one in left:
        table.add_row(one.kind, Text(one_line(one.name)), f"{one.size_bytes / 1e6:.1f}", f"{one.age_s / 86400:.0f}")
    make_console().print(table)
    total = sum(one.size_bytes for one in left)
    typer.echo(f"{len(left)} from fleets, {total / 1e6:.1f} MB; `slmbench cache clean --fleet` removes them")


def _print(stored: list[Stored], left: list[Left], as_json: bool) -> None:
    from slmbench.export.artifact_store import artifacts_dir

    if as_json:
        rows = [*(item.summary() for item in stored), *(one.summary() for one in left)]
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    from slmbench.report.text_table import make_console

    table = Table(box=None)
    for column in ("id", "checkpoint", "artifact", "MB", "made", "state"):
        table.add_column(column, justify="right" if column == "MB" else "left", no_wrap=column == "id")
    for item in stored:
        row = item.summary()
        size = f"{item.size_bytes / 1e6:.1f}"
        cells = (item.folder.name[:12], row["checkpoint"], row["label"], size, row["created"], item.problem or "whole")
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    make_console().print(table)
    total = sum(item.size_bytes for item in stored)
    typer.echo(f"{amount(len(stored), 'artifact')}, {total / 1e6:.1f} MB in {artifacts_dir()}")
    if left:
        _print_left(left)
    _print_others()


def _print_others() -> None:
    """Print what else takes room in the cache, and what removes it."""
    from slmbench.evaluation.stored_reference import stored_references
    from slmbench.export.compiled_copies import compiled_folders

    if found := compiled_folders():
        total = sum(size for _, size in found)
        what = f"compiled by engines: of {amount(len(found), 'artifact')}, {total / 1e6:.1f} MB"
        typer.echo(f"{what}; `slmbench cache clean --compiled` removes them")
    if found := stored_references():
        total = sum(size for _, size in found)
        what = f"references of quality: {len(found)}, {total / 1e6:.1f} MB"
        typer.echo(f"{what}; `slmbench cache clean --references` removes them")
