"""A fleet's machines side by side, and with those of plain runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from slmbench.analysis.machines import DEVICES, Shelf, Stand, shelf_of
from slmbench.analysis.metrics import Side, metric_named
from slmbench.analysis.sides import distinct, is_fleet, read_side, where
from slmbench.errors import BadInputError, NotComparableError
from slmbench.fleet.read import Machines, read_fleets


def stands_of(machines: Machines, prefix: str = "") -> list[Stand]:
    """Return a fleet's machines as they stand on a shelf; one that was given cases and sent nothing, empty."""
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
    """Return the device in a case's key: the first part of it that is one, behind checkpoint and backend."""
    return next((part for part in key.split("|")[2:] if part in DEVICES), None)


def shelf_from(names: Sequence[str], *, metrics: Sequence[str] = (), conditions: Sequence[str] = ()) -> Shelf:
    """Return fleets' runs and plain ones, each a machine's, as one shelf.

    Raises:
        BadInputError: a name is no run, or a metric or condition is wrong.
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
    """Return the stands whose machine and cases fulfil the conditions; ``machine`` is a field here."""
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
        raise BadInputError(f"--where {condition}: FIELD=GLOB or FIELD!=GLOB is expected")
    return fnmatchcase(machine, pattern) != name.endswith("!")
