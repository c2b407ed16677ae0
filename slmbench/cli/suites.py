"""``slmbench suites``: list them, show one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def suites(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the suites that come with slmbench."""
    if context.invoked_subcommand:
        return
    from slmbench.plan.suite import load_suite, suite_names

    rows = [load_suite(name) for name in suite_names()]
    if as_json:
        typer.echo(json.dumps([{"name": row.name, "description": row.description} for row in rows], indent=1))
        return
    from rich.table import Table

    from slmbench.report.text_table import make_console

    table = Table(box=None)
    for column in ("suite", "cases at most", "what it measures"):
        table.add_column(column, justify="right" if column == "cases at most" else "left")
    for row in rows:
        table.add_row(row.name, str(sum(1 for _ in row.cells())), row.description)
    make_console().print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A suite's name, or the path of a YAML file.")]) -> None:
    """Print a suite as it stands, after checking it."""
    from slmbench.plan.suite import parse_suite, suite_text

    text, where = suite_text(name)
    parse_suite(text, where)
    typer.echo(text, nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of suites, for editors."""
    from slmbench.plan.suite import Suite

    typer.echo(json.dumps(Suite.model_json_schema(), indent=1))
