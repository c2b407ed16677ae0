"""A fleet's tables, made again from its samples: every machine's own, then its machines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.analysis.machines import Shelf
from slmbench.errors import NotComparableError, one_line
from slmbench.fleet.read import Machines, read_machines, run_folders
from slmbench.fleet.record import read_fleet
from slmbench.fleet.shelf import shelf_of_fleet
from slmbench.records.sample_arrays import read_columns
from slmbench.report.csv_text import csv_text
from slmbench.report.machines_table import print_shelf, shelf_markdown
from slmbench.system.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console


#: More tables than this hide what matters: of a large fleet only the machines side by side are printed.
MOST_TABLES = 8


def print_fleet(console: Console, folder: Path) -> None:
    """Print each machine's table under its name, then the machines side by side, then what was not run.

    Raises:
        BadInputError: not a fleet's run, or one of its runs is damaged.
    """
    from rich.text import Text

    from slmbench.report.write import print_run

    runs = [(name, path) for name in read_fleet(folder).machines for path in run_folders(folder, name)]
    for name, path in runs if len(runs) <= MOST_TABLES else []:
        part = "" if path.name == name else f", part {path.name}"
        console.print(Text(f"\n{one_line(name)}{part}", style="bold"))
        print_run(console, read_columns(path))
    if len(runs) > MOST_TABLES:
        console.print(
            Text(f"{len(runs)} tables are not shown: `slmbench table FOLDER` of one in {folder / 'machines'}")
        )
    machines = read_machines(folder)
    shelf = _shelf(machines)
    if shelf is None or len(shelf.places) < 2:
        for line in machines.notes():
            console.print(Text(one_line(line)))
        return
    console.print(Text("\nThe machines side by side", style="bold"))
    print_shelf(console, shelf)


def write_fleet(folder: Path) -> None:
    """Write ``table.csv``, ``table.md`` and ``report.html`` of every part, then of the whole fleet.

    Raises:
        BadInputError: not a fleet's run, or the folder cannot be written.
    """
    from slmbench.fleet.table import fleet_table
    from slmbench.report.machines_formats import shelf_page
    from slmbench.report.write import write_reports

    for name in read_fleet(folder).machines:
        for path in run_folders(folder, name):
            write_reports(read_columns(path))
    machines = read_machines(folder)
    frame = fleet_table(folder, machines.record)
    write_whole(folder / "table.csv", csv_text(frame.columns, frame.itertuples(index=False, name=None)))
    write_whole(folder / "table.md", fleet_markdown(machines))
    shelf = _shelf(machines)
    if shelf is not None:
        write_whole(folder / "report.html", shelf_page(shelf, machines.label))


def fleet_markdown(machines: Machines) -> str:
    """Return the machines side by side as Markdown, or why there is nothing to show."""
    shelf = _shelf(machines)
    if shelf is not None:
        return shelf_markdown(shelf)
    return "\n".join(["Nothing was measured.", "", *(f"- {one_line(line)}" for line in machines.notes()), ""])


def _shelf(machines: Machines) -> Shelf | None:
    try:
        return shelf_of_fleet(machines)
    except NotComparableError:
        return None
