"""A fleet's tables, made from its samples: one for each machine, then the machines side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmbench.analysis.machines import DEVICES, Shelf, Stand, shelf_of
from slmbench.analysis.metrics import Side, metric_named
from slmbench.analysis.sides import distinct, is_fleet, read_side, where
from slmbench.errors import BadInputError, NotComparableError, one_line
from slmbench.fleet.read import Machines, read_fleets, read_machines, run_folders
from slmbench.fleet.record import FleetRecord, read_fleet
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import read_run
from slmbench.report.csv_text import csv_text
from slmbench.report.machines_table import print_shelf, shelf_markdown
from slmbench.report.run_table import table_rows
from slmbench.system.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

#: With more tables than this, only the machines side by side are printed.
MOST_TABLES = 8


def print_fleet(console: Console, folder: Path) -> None:
    """Print each machine's table, then the machines side by side, then what was not run.

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
            Text(f"{len(runs)} tables are not shown; `slmbench table` shows one, of a folder in {folder / 'machines'}")
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
    from slmbench.report.machines_formats import shelf_page
    from slmbench.report.write import write_reports

    for name in read_fleet(folder).machines:
        for path in run_folders(folder, name):
            write_reports(read_columns(path))
    machines = read_machines(folder)
    write_whole(folder / "table.csv", csv_text(fleet_rows(folder, machines.record)))
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


def fleet_rows(folder: Path, record: FleetRecord) -> list[dict[str, Any]]:
    """Return the rows of all machines one below the other, ``machine`` first; figures in SI units."""
    return [
        {"machine": name, **row}
        for name in record.machines
        for path in run_folders(folder, name)
        for row in table_rows(read_run(path))
    ]


def stands_of(machines: Machines, prefix: str = "") -> list[Stand]:
    """Return a fleet's machines for comparison; one that was given cases and sent nothing is empty."""
    stands = []
    for name, member in machines.record.machines.items():
        sides = machines.sides[name]
        given = tuple(device for device in DEVICES if any(_device(key) == device for key in member.keys))
        if not sides and given:
            machine = member.about.fingerprint.model_dump(mode="json")
            sides = [Side(name=name, run_id="", arm=None, cases={}, machine=machine)]
        stands += [Stand(prefix + name, side, given) for side in sides]
    return stands


def _device(key: str) -> str | None:
    """Return the device in a case's key: the first part after checkpoint and backend that is one."""
    return next((part for part in key.split("|")[2:] if part in DEVICES), None)


def shelf_from(names: Sequence[str], *, metrics: Sequence[str] = (), conditions: Sequence[str] = ()) -> Shelf:
    """Return runs of fleets and of single machines as one comparison.

    Raises:
        BadInputError: a name is not a run, or a metric or condition is wrong.
        NotComparableError: nothing was measured.
    """
    stands, notes = [], []
    fleets = read_fleets([name for name in names if is_fleet(name)])
    for fleet in fleets:
        stands += stands_of(fleet, f"{fleet.label}/" if len(fleets) > 1 else "")
        notes += fleet.notes()
    plain = distinct([read_side(name) for name in names if not is_fleet(name)])
    stands += [Stand(side.name, side) for side in plain]
    shelf = shelf_of(_chosen(stands, conditions), [metric_named(name).name for name in metrics], notes)
    if not shelf.matrices:
        raise NotComparableError("\n".join([f"{', '.join(names)}: nothing was measured to compare", *shelf.notes]))
    return shelf


def shelf_of_fleet(machines: Machines) -> Shelf:
    """Return one fleet's machines side by side.

    Raises:
        NotComparableError: nothing was measured.
    """
    shelf = shelf_of(stands_of(machines), notes=machines.notes())
    if not shelf.matrices:
        raise NotComparableError(f"{machines.label}: nothing was measured to compare")
    return shelf


def _chosen(stands: Sequence[Stand], conditions: Sequence[str]) -> list[Stand]:
    """Return the stands whose machine and cases meet the conditions; ``machine`` is a field here."""
    of_machines = [text for text in conditions if text.partition("=")[0].rstrip("!") == "machine"]
    others = [text for text in conditions if text not in of_machines]
    kept = [stand for stand in stands if all(_fits(stand.machine, text) for text in of_machines)]
    sides = where([stand.side for stand in kept], others)
    return [
        replace(stand, side=side, devices=() if others else stand.devices)
        for stand, side in zip(kept, sides, strict=True)
    ]


def _fits(machine: str, condition: str) -> bool:
    name, _, pattern = condition.partition("=")
    if not pattern:
        raise BadInputError(f"--where {condition}: not valid; write FIELD=GLOB or FIELD!=GLOB")
    return fnmatchcase(machine, pattern) != name.endswith("!")
