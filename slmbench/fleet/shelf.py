"""A fleet's machines side by side, and with those of plain runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from slmbench.analysis.machines import DEVICES, Shelf, Stand, shelf_of
from slmbench.analysis.metrics import Side, metric_named
from slmbench.analysis.sides import distinct, is_fleet, read_side, where
from slmbench.errors import BadInputError, NotComparableError
from slmbench.fleet.check import compare_fleets
from slmbench.fleet.read import Machines, read_fleets
from slmbench.report.commands import CompareRequest, check_output
from slmbench.report.text_table import make_console
from slmbench.system.files import write_whole


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


def run_shelf_compare(request: CompareRequest) -> None:
    """Carry out ``slmbench compare`` where machines are compared: one shelf, or one run of a shelf against another.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: nothing can be compared.
    """
    check_output(request)
    fleets = [name for name in request.sides if is_fleet(name)]
    if len(fleets) > 1 and not request.by_machine:
        if len(fleets) < len(request.sides):
            plain = next(name for name in request.sides if name not in fleets)
            raise BadInputError(f"{plain}: is one machine's run and {fleets[0]} a fleet's; --by-machine groups them")
        compare_fleets(request)
        return
    if len(fleets) < len(request.sides) and not request.by_machine:
        raise BadInputError(f"{fleets[0]}: is a fleet's run; --by-machine groups it with those of other machines")
    idle = {
        "--sort": request.sort != "case",
        "--group": request.group is not None,
        "--columns": bool(request.columns),
        "--gate": request.gate is not None,
        "--gates": request.gates is not None,
        "--arms": bool(request.arms),
    }
    if any(idle.values()):
        raise BadInputError(f"{', '.join(n for n, given in idle.items() if given)}: of no use where machines compare")
    shelf = shelf_from(request.sides, metrics=request.metrics, conditions=request.where)
    _show_shelf(shelf, request, ", ".join(Path(name).resolve().name for name in request.sides))


def _show_shelf(shelf: Shelf, request: CompareRequest, title: str) -> None:
    from slmbench.report.machines_table import print_shelf

    if request.format == "terminal" and request.out is None:
        print_shelf(make_console(), shelf)
        return
    text = _rendered(shelf, request.format, title)
    if request.out is not None:
        write_whole(request.out, text)
    else:
        import typer

        typer.echo(text, nl=False)


def _rendered(shelf: Shelf, kind: str, title: str) -> str:
    if kind in ("csv", "json", "html"):
        from slmbench.report.machines_formats import shelf_csv, shelf_json, shelf_page

        makers: dict[str, Callable[[], str]] = {
            "csv": lambda: shelf_csv(shelf),
            "json": lambda: shelf_json(shelf) + "\n",
            "html": lambda: shelf_page(shelf, title),
        }
        return makers[kind]()
    from slmbench.report.machines_table import shelf_markdown

    return shelf_markdown(shelf)
