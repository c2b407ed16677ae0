"""A fleet run's figures as one table: ``machine`` is its first column, and no figure mixes machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.fleet.client import FleetRecord, machine_folder
from slmbench.records import RUN_NAME, Run, read_run
from slmbench.report.table import run_table

if TYPE_CHECKING:
    import pandas as pd


def machine_runs(folder: Path, record: FleetRecord) -> dict[str, Run]:
    """Return what is here of each machine's run, unfinished ones included."""
    parts = {name: machine_folder(folder, name) for name in record.machines}
    return {name: read_run(part) for name, part in parts.items() if (part / RUN_NAME).exists()}


def fleet_table(folder: Path, record: FleetRecord) -> pd.DataFrame:
    """Return every machine's table under each other, ``machine`` first; figures in SI units."""
    import pandas as pd

    tables = []
    for name, run in machine_runs(folder, record).items():
        table = run_table(run)
        table.insert(0, "machine", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"machine": []})
