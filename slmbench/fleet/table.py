"""A fleet run's figures as one table: ``machine`` is its first column, and no figure mixes machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.fleet.read import run_folders
from slmbench.fleet.record import FleetRecord
from slmbench.records.schema import Run, read_run
from slmbench.report.run_table import run_table

if TYPE_CHECKING:
    import pandas as pd


def machine_runs(folder: Path, record: FleetRecord) -> Iterator[tuple[str, Run]]:
    """Yield what is here of every part that each machine measured, with its name; unfinished ones included."""
    for name in record.machines:
        for part in run_folders(folder, name):
            yield name, read_run(part)


def fleet_table(folder: Path, record: FleetRecord) -> pd.DataFrame:
    """Return every machine's table under each other, ``machine`` first; figures in SI units."""
    import pandas as pd

    tables = []
    for name, run in machine_runs(folder, record):
        table = run_table(run)
        table.insert(0, "machine", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"machine": []})
