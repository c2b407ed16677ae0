"""A fleet's run read back: its machines side by side, and against another run of the shelf. Dask is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.columns import read_columns
from slmbench.errors import BadInputError, ExitCode, NotComparableError, one_line
from slmbench.evidence import Side, SideCase, metric_named, side_of
from slmbench.fleet.client import FleetRecord, Member, machine_folder, read_fleet
from slmbench.gates import Gates
from slmbench.judge import Comparison, compare_sides, exit_code, fingerprint_of
from slmbench.machine.fingerprint import differences
from slmbench.records import RUN_NAME, write_whole
from slmbench.report.check import last_line, write_outputs
from slmbench.report.commands import CheckRequest, CompareRequest, check_output, gates_of, noise_floor, show_comparisons
from slmbench.report.comparison import comparisons_json, print_comparison
from slmbench.report.formats import annotation_lines
from slmbench.report.shelf import DEVICES, Shelf, Stand, shelf_of
from slmbench.report.sides import distinct, is_fleet, read_side, where
from slmbench.report.text import make_console

if TYPE_CHECKING:
    from rich.console import Console

#: The worst first.
_WORST = (
    ExitCode.REGRESSED,
    ExitCode.FAILED,
    ExitCode.NOT_COMPARABLE,
    ExitCode.INCONCLUSIVE,
    ExitCode.OK,
)


@dataclass(frozen=True)
class Machines:
    """What a fleet's run left on this disk, by machine."""

    label: str
    record: FleetRecord
    #: The runs of each machine; none of one that sent nothing.
    sides: Mapping[str, list[Side]]

    def notes(self) -> list[str]:
        """Return what was not run and why."""
        lines = []
        for name, member in self.record.machines.items():
            if reason := _unfinished(member):
                lines.append(f"not run to its end on {name}: {reason}")
            lines += [f"left out on {name}: {line}" for line in member.left_out]
        return lines


def _unfinished(member: Member) -> str | None:
    if member.outcome is None:
        return "the run is under way, or its client went away (--resume goes on with it)"
    return member.outcome or None


def run_folders(folder: Path, name: str) -> list[Path]:
    """Return the folders of a machine's runs."""
    own = machine_folder(folder, name)
    return sorted(path.parent for path in [*own.glob(RUN_NAME), *own.glob(f"*/{RUN_NAME}")])


def read_fleets(names: Sequence[str]) -> list[Machines]:
    """Read fleets' runs; those of one name are numbered.

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
    """Read what is here of every machine's runs, unfinished ones included. Sides are named behind the label.

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
        _compare_fleets(request)
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
    from slmbench.report.shelf_text import print_shelf

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
        from slmbench.report.shelf_formats import shelf_csv, shelf_json, shelf_page

        makers: dict[str, Callable[[], str]] = {
            "csv": lambda: shelf_csv(shelf),
            "json": lambda: shelf_json(shelf) + "\n",
            "html": lambda: shelf_page(shelf, title),
        }
        return makers[kind]()
    from slmbench.report.shelf_text import shelf_markdown

    return shelf_markdown(shelf)


@dataclass(frozen=True)
class Judged:
    """Two runs of a shelf, machine by machine."""

    comparisons: list[Comparison]
    #: Machines that cannot be judged, each with the reason.
    problems: list[str]


def judge_fleets(base: Machines, new: Machines, judge: Callable[[Side, Side, int], Comparison]) -> Judged:
    """Judge every machine of the base against the one of that name; what has no counterpart is a problem.

    ``judge`` also takes the number of machines: the chance of a false alarm is that of the whole check.
    """
    old, young = _whole(base), _whole(new)
    problems = [*_without_cases(base, old), *_without_cases(new, young)]
    couples = _couples(old, young)
    taken = {name for couple in couples for name in couple}
    for one, sides, other in ((base, old, new), (new, young, base)):
        problems += [
            f"machine {name}: is in {one.label} and not in {other.label}"
            for name in sides
            if name not in taken and name not in other.record.machines
        ]
    comparisons = []
    for before, after in couples:
        try:
            comparisons.append(judge(old[before], young[after], len(couples)))
        except NotComparableError as error:
            problems.append(f"machine {after}: {one_line(str(error))}")
    return Judged(comparisons, problems)


def _whole(machines: Machines) -> dict[str, Side]:
    """Return every machine that measured or tried to, its runs as one side."""
    return {name: _merged(sides) for name, sides in machines.sides.items() if any(side.cases for side in sides)}


def _without_cases(machines: Machines, whole: Mapping[str, Side]) -> list[str]:
    return [
        f"machine {name}: nothing of it is in {machines.label}: {_unfinished(member) or 'it sent nothing'}"
        for name, member in machines.record.machines.items()
        if member.keys and name not in whole
    ]


def _merged(sides: Sequence[Side]) -> Side:
    """Return a machine's runs as one; of a case measured in several, the one with most loads."""
    first, *others = sorted(sides, key=lambda side: (-len(side.cases), side.created, side.run_id))
    if not others:
        return first
    cases = dict(first.cases)
    for side in others:
        for key, found in side.cases.items():
            if key not in cases or _loads(found) > _loads(cases[key]):
                # Its rounds are those of another run: they are no neighbours of the first one's.
                bare = {name: replace(evidence, rounds=None) for name, evidence in found.evidence.items()}
                cases[key] = replace(found, evidence=bare)
    return replace(first, cases=cases, run_id="+".join(side.run_id for side in [first, *others]))


def _loads(found: SideCase) -> int:
    return max((int(evidence.logs.size) for evidence in found.evidence.values()), default=0)


def _couples(old: Mapping[str, Side], young: Mapping[str, Side]) -> list[tuple[str, str]]:
    """Return which machines go together: those of one name, and where one was renamed the only equal one left."""
    couples = [(name, name) for name in old if name in young]
    left, right = ([name for name in one if name not in other] for one, other in ((old, young), (young, old)))
    for before in left:
        equal = [after for after in right if _equal(old[before], young[after])]
        twins = [name for name in left if equal and _equal(old[name], young[equal[0]])]
        if len(equal) == len(twins) == 1:
            couples.append((before, equal[0]))
    return couples


def _equal(one: Side, other: Side) -> bool:
    first, second = fingerprint_of(one), fingerprint_of(other)
    return first is not None and second is not None and not any(found.hard for found in differences(first, second))


def _judge(request: CompareRequest | CheckRequest, gates: Gates) -> Callable[[Side, Side, int], Comparison]:
    metrics = [metric_named(name).name for name in request.metrics]

    def judge(base: Side, new: Side, machines: int) -> Comparison:
        base, new = where([base, new], request.where)
        return compare_sides(
            base,
            new,
            gates=replace(gates, alpha=gates.alpha / machines),
            metrics=metrics or None,
            noise_floor=noise_floor(base),
            allow_different_machine=request.allow_different_machine,
        )

    return judge


def _compare_fleets(request: CompareRequest) -> None:
    if request.arms:
        raise BadInputError("--arms goes with a single run")
    base, *others = read_fleets(request.sides)
    judge = _judge(request, gates_of(request.gates, request.gate))
    found = [judge_fleets(base, other, judge) for other in others]
    comparisons = [comparison for one in found for comparison in one.comparisons]
    problems = list(dict.fromkeys(problem for one in found for problem in one.problems))
    if not comparisons:
        raise NotComparableError("\n".join(["no machine of both can be compared:", *problems]))
    show_comparisons(comparisons, request)
    _warn(problems)


def _warn(problems: Sequence[str]) -> None:
    import typer

    for problem in problems:
        typer.echo(f"not comparable: {one_line(problem)}", err=True)


def run_fleet_check(request: CheckRequest) -> ExitCode:
    """Carry out ``slmbench check`` on two runs of a shelf: a verdict a machine, and the worst one's exit code.

    Raises:
        BadInputError: anything asked for is wrong, or only one of the two is a fleet's run.
    """
    for name in (request.baseline, request.new):
        if not is_fleet(name):
            raise BadInputError(f"{name}: is not a fleet's run; a fleet is checked against a fleet")
    if request.budget_s is not None:
        raise BadInputError("--until-conclusive: the machines of a fleet cannot be sampled on from here")
    base, new = read_fleets([request.baseline, request.new])
    found = judge_fleets(base, new, _judge(request, gates_of(request.gates, request.gate)))
    problems = [] if request.allow_missing else found.problems
    codes = [exit_code([comparison], allow_missing=request.allow_missing) for comparison in found.comparisons]
    worst = min([*codes, *([ExitCode.NOT_COMPARABLE] if problems or not codes else [])], key=_WORST.index)
    write_outputs(found.comparisons, junit=request.junit, summary=request.summary, problems=found.problems)
    if request.as_json:
        print(comparisons_json(found.comparisons))
        _warn(found.problems)
        return worst
    _print_check(make_console(), found, codes, worst)
    if request.annotations:
        print("\n".join(annotation_lines(found.comparisons, problems=found.problems)))
    return worst


def _print_check(console: Console, found: Judged, codes: Sequence[ExitCode], worst: ExitCode) -> None:
    from rich.text import Text

    for comparison, code in zip(found.comparisons, codes, strict=True):
        print_comparison(console, comparison, sort="verdict")
        console.print(Text(one_line(last_line(comparison, code)), style="bold"))
    for problem in found.problems:
        console.print(Text(f"check NOT COMPARABLE: {one_line(problem)}", style="bold"))
    said = {ExitCode.OK: "passed", ExitCode.INCONCLUSIVE: "INCONCLUSIVE: this is no pass"}
    word = said.get(worst, worst.name.replace("_", " "))
    console.print(Text(f"check of {len(found.comparisons)} machines: {word}", style="bold"))
