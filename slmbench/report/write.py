"""The files of a run: table.md, table.csv and report.html, each whole or not at all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmbench.errors import one_line
from slmbench.records.sample_arrays import RunColumns, columns_of
from slmbench.records.schema import Run
from slmbench.report.answers import TASKS_LEGEND, answers_table
from slmbench.report.claims import claims_table
from slmbench.report.csv_text import csv_text
from slmbench.report.run_columns import text_table
from slmbench.report.run_table import table_rows
from slmbench.report.sentences import run_sentences
from slmbench.report.text_table import escape_markdown, markdown_sentence, markdown_table, print_table
from slmbench.system.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

LEGEND = (
    "A figure is the mean over loads of each load's median; in brackets its 95 % interval (a model is loaded several "
    "times, in processes of its own; means are geometric). "
    "Ratios are taken round by round, so they are not the quotient of two figures. "
    "ttft: time to first token. tok/s: tokens per second after the first, batch included. "
    "Times in ms unless said otherwise."
)


def write_reports(run: Run | RunColumns, folder: Path | None = None) -> None:
    """Write ``table.md``, ``table.csv`` and ``report.html`` into the run's folder, or another.

    Raises:
        BadInputError: the folder cannot be written.
    """
    from slmbench.report.html import run_report

    columns = columns_of(run) if isinstance(run, Run) else run
    into = folder or columns.folder
    rows = table_rows(columns)
    write_whole(into / "table.md", table_markdown(columns, rows))
    write_whole(into / "table.csv", csv_text(rows))
    write_whole(into / "report.html", run_report(columns, rows))


def table_markdown(run: RunColumns, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the run's table with its sentences as Markdown."""
    table = text_table(rows)
    lines = [f"# {escape_markdown(run.record.suite or 'Run')} {escape_markdown(run.record.run_id)}", ""]
    if table.common:
        common = ", ".join(f"{name}: {value}" for name, value in table.common.items())
        lines += [escape_markdown(f"Every row has {common}."), ""]
    if table.rows:
        lines += [markdown_table(table.headers, table.rows, table.numeric)]
    if claimed := claims_table(run):
        lines += ["## Claims", "", markdown_table(claimed.headers, claimed.rows, claimed.numeric)]
        lines += [f"- {markdown_sentence(line)}" for line in claimed.notes]
    answered = answers_table(run)
    if answered and answered.rows:
        lines += ["## Answers to tasks", "", markdown_table(answered.headers, answered.rows, answered.numeric)]
        lines += [f"- {markdown_sentence(f'{name}: {value}')}" for name, value in answered.common.items()]
    lines += [f"- {markdown_sentence(line)}" for line in [*run_sentences(run), *table.notes, *run.warnings]]
    lines += [f"- {markdown_sentence(line)}" for line in (answered.notes if answered else ())]
    return "\n".join([*lines, "", LEGEND, *([TASKS_LEGEND] if answered else []), ""])


def print_run(console: Console, run: Run | RunColumns, rows: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Print the run's table, what it means for its pairs, and what failed; ``rows`` are its own, if they are there."""
    from rich.text import Text

    columns = columns_of(run) if isinstance(run, Run) else run
    shows_all = f"`slmbench table {shlex.quote(str(columns.folder))} --markdown`"
    print_table(console, text_table(table_rows(columns) if rows is None else rows, console.width, shows_all))
    if answered := answers_table(columns, console.width, shows_all):
        console.print(Text("Answers to tasks", style="bold"))
        print_table(console, answered)
    for line in [*run_sentences(columns), *columns.warnings]:
        console.print(Text(one_line(line)))
