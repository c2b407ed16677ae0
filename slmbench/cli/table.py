"""``slmbench table``: a run's tables, recreated from its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slmbench.system.collector import collector_paused

app = typer.Typer(add_completion=False)


@app.command()
def table(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its run.json or samples.jsonl; or a fleet's run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, in SI units.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown.")] = False,
    format: Annotated[
        str | None, typer.Option(help="Print it for another tool: bencher, github-smaller or github-bigger.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw the report's charts into this folder, as PNG.", metavar="FOLDER")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write table.md, table.csv and report.html.")] = False,
) -> None:
    """Recreate a run's tables from its samples."""
    from slmbench.analysis.sides import is_fleet

    if is_fleet(run):
        _fleet(run, as_json=as_json, markdown=markdown, write=write, others=bool(format or plots))
        return
    if format:
        typer.echo(_export(str(run), format))
    else:
        _run(run, as_json=as_json, markdown=markdown, plots=plots, write=write)


@collector_paused()
def _run(run: Path, *, as_json: bool, markdown: bool, plots: Path | None, write: bool) -> None:
    """Recreate the tables of a run of one machine."""
    from slmbench.records.sample_arrays import read_columns
    from slmbench.report.csv_text import json_rows
    from slmbench.report.run_table import table_rows
    from slmbench.report.text_table import make_console
    from slmbench.report.write import print_run, table_markdown, write_reports

    columns = read_columns(run)
    if as_json:
        typer.echo(json_rows(table_rows(columns)))
    elif markdown:
        typer.echo(table_markdown(columns, table_rows(columns)), nl=False)
    else:
        print_run(make_console(), columns)
    if write:
        write_reports(columns)
    if plots is not None:
        from slmbench.report.chart_files import write_pictures
        from slmbench.report.html import run_charts

        for path in write_pictures(plots, run_charts(columns)):
            typer.echo(path, err=True)


def _fleet(run: Path, *, as_json: bool, markdown: bool, write: bool, others: bool) -> None:
    """Recreate a fleet's tables: each machine's, then all side by side."""
    from slmbench.errors import BadInputError
    from slmbench.fleet.read import read_machines
    from slmbench.fleet.report import fleet_markdown, fleet_rows, print_fleet, write_fleet
    from slmbench.report.csv_text import json_rows
    from slmbench.report.text_table import make_console

    folder = run if run.is_dir() else run.parent
    if others:
        raise BadInputError(f"{run}: --format and --plots work on the run of one machine, in {folder / 'machines'}")
    if as_json:
        typer.echo(json_rows(fleet_rows(folder, read_machines(folder).record)))
    elif markdown:
        typer.echo(fleet_markdown(read_machines(folder)), nl=False)
    else:
        print_fleet(make_console(), folder)
    if write:
        write_fleet(folder)


def _export(name: str, kind: str) -> str:
    """Return a run in another tool's format.

    Raises:
        BadInputError: not a run, or an unknown format.
        NotComparableError: an empty run.
    """
    from slmbench.analysis.sides import read_side
    from slmbench.errors import BadInputError
    from slmbench.report.formats import EXPORT_FORMATS, export_side

    for known in EXPORT_FORMATS:
        if kind == known:
            return export_side(read_side(name), known)
    raise BadInputError(f"--format {kind}: unknown. Known: {', '.join(EXPORT_FORMATS)}.")
