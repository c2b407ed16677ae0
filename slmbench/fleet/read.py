"""What a fleet's run left on this disk: its machines as sides of comparisons. Reading it does not need Dask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slmbench.analysis.metrics import Side, side_of
from slmbench.fleet.record import FleetRecord, Member, machine_folder, read_fleet
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import FLEET_NAME, RUN_NAME

#: At most this many cases that were not run are printed for each kind of machine.
SHOWN = 20


@dataclass(frozen=True)
class Machines:
    """What a fleet's run left on this disk, by machine."""

    label: str
    record: FleetRecord
    #: The runs of each machine; an empty list if it sent nothing.
    sides: Mapping[str, list[Side]]

    def notes(self) -> list[str]:
        """Return what was not run and why."""
        lines = []
        for name, member in self.record.machines.items():
            if reason := unfinished(member):
                lines.append(f"not finished on {name}: {reason}")
            lines += [f"left out on {name}: {line}" for line in member.left_out]
        for one in self.record.not_run:
            lines += [f"not run ({one.reason}): {key}" for key in one.keys[:SHOWN]]
            if len(one.keys) > SHOWN:
                lines.append(f"not run: {len(one.keys) - SHOWN} more of {', '.join(one.machines)}, in {FLEET_NAME}")
        return lines


def unfinished(member: Member) -> str | None:
    """Return why a machine did not finish; None if it did."""
    if member.outcome is None:
        return "the run is under way, or its client was stopped (`slmbench run --resume` continues it)"
    return member.outcome or None


def run_folders(folder: Path, name: str) -> list[Path]:
    """Return the folders of a machine's runs."""
    own = machine_folder(folder, name)
    found = [path.parent for path in [*own.glob(RUN_NAME), *own.glob(f"*/{RUN_NAME}")]]
    return sorted(found, key=lambda path: (len(path.parts), len(path.name), path.name))


def read_fleets(names: Sequence[str]) -> list[Machines]:
    """Read fleets' runs; runs with the same name are numbered.

    Raises:
        BadInputError: not a fleet's run, or one of its runs is damaged.
    """
    folders = [path if path.is_dir() else path.parent for path in map(Path, names)]
    labels = [folder.resolve().name for folder in folders]
    return [
        read_machines(folder, f"{label} ({number})" if labels.count(label) > 1 else label)
        for number, (folder, label) in enumerate(zip(folders, labels, strict=True), 1)
    ]


def read_machines(folder: Path, label: str = "") -> Machines:
    """Read what is here of every machine's runs, unfinished ones included. The label is part of their names.

    Raises:
        BadInputError: not a fleet's run, or one of its runs is damaged.
    """
    record = read_fleet(folder)
    own = label or folder.resolve().name
    sides = {
        name: [_side(path, f"{own}/{name}", member) for path in run_folders(folder, name)]
        for name, member in record.machines.items()
    }
    return Machines(own, record, sides)


def _side(path: Path, name: str, member: Member) -> Side:
    side = side_of(read_columns(path, keep_tokens=False), name, may_be_empty=True)
    return side if side.machine else replace(side, machine=member.about.fingerprint.model_dump(mode="json"))
