"""Two runs of a shelf, before and after: every machine is judged against itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.analysis.gates import Gates
from slmbench.analysis.metrics import Side, SideCase, metric_named
from slmbench.analysis.sides import is_fleet, where
from slmbench.analysis.verdicts import Comparison, compare_sides, exit_code, fingerprint_of
from slmbench.errors import BadInputError, ExitCode, NotComparableError, one_line
from slmbench.fleet.read import Machines, read_fleets, unfinished
from slmbench.machine.fingerprint import Fingerprint, differences
from slmbench.report.check import last_line, write_outputs
from slmbench.report.commands import CheckRequest, CompareRequest, gates_of, noise_floor, show_comparisons
from slmbench.report.comparison import comparisons_json, print_comparison
from slmbench.report.formats import annotation_lines
from slmbench.report.text_table import make_console

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
class Judged:
    """Two runs of a shelf, machine by machine."""

    comparisons: list[Comparison]
    #: Machines that cannot be judged, each with the reason.
    problems: list[str]


def judge_fleets(base: Machines, new: Machines, judge: Callable[[Side, Side, int], Comparison]) -> Judged:
    """Judge every machine of the base against itself; what has no counterpart is a problem.

    Equal machines share what they measure, so a case may have moved to another one of them: it is judged all the same,
    with a warning. ``judge`` also takes the number of machines: the chance of a false alarm is that of the whole check.
    """
    old, young = _whole(base), _whole(new)
    couples = [(side, after) for name, side in old.items() if (after := _counterpart(name, old, young)) is not None]
    problems = [
        f"machine {name}: {problem}"
        for name in dict.fromkeys([*base.record.machines, *new.record.machines])
        if (problem := _not_judged(name, (base, old), (new, young)))
    ]
    comparisons = []
    for before, after in couples:
        try:
            comparisons.append(judge(before, after, len(couples)))
        except NotComparableError as error:
            problems.append(f"machine {Path(after.name).name}: {one_line(str(error))}")
    return Judged(comparisons, problems)


def _whole(machines: Machines) -> dict[str, Side]:
    """Return every machine that measured or tried to, its runs as one side."""
    return {name: _merged(sides) for name, sides in machines.sides.items() if any(side.cases for side in sides)}


def _counterpart(name: str, old: Mapping[str, Side], young: Mapping[str, Side]) -> Side | None:
    """Return the new side of a machine: what it measured, and what an equal one measured in its place.

    None where neither it nor an equal one measured anything.
    """
    own = young.get(name)
    equals = [side for other, side in young.items() if other != name and _equal(old[name], side)]
    if own is None and not equals:
        return None
    # What an equal machine had before is judged there.
    elsewhere = {key for other, side in old.items() if other != name and _equal(old[name], side) for key in side.cases}
    mine = own.cases if own else {}
    cases = {key: found for key, found in mine.items() if key in old[name].cases or key not in elsewhere}
    moved = []
    for key in old[name].cases:
        if key in cases and cases[key].evidence:
            continue
        for side in equals:
            if key in side.cases and side.cases[key].evidence:
                cases[key] = _bare(side.cases[key])
                moved.append(f"{key}: was measured on {name}, and now on an equal machine, {Path(side.name).name}")
                break
    side = own or equals[0]
    return replace(side, cases=cases, warnings=(*side.warnings, *moved))


def _not_judged(name: str, *runs: tuple[Machines, Mapping[str, Side]]) -> str | None:
    """Return why a machine cannot be judged; None where it can, and where neither run of the shelf had work for it."""
    given = [machines for machines, sides in runs if name in sides]
    reasons = []
    for machines, sides in runs:
        member = machines.record.machines.get(name)
        wanted = bool(given) or (member is not None and bool(member.keys) and member.outcome != "")
        if not wanted or name in sides or any(_alike(side, runs, name) for side in sides.values()):
            continue
        if member is None:
            reasons.append(f"is in {given[0].label} and not in {machines.label}")
        else:
            why = (unfinished(member) or "it sent nothing").removeprefix(f"machine {name}: ")
            reasons.append(f"nothing of it is in {machines.label}: {why}")
    return "; ".join(reasons) or None


def _alike(side: Side, runs: Sequence[tuple[Machines, Mapping[str, Side]]], name: str) -> bool:
    """Return whether a side's machine is equal to the machine of that name in any of the runs."""
    mine = fingerprint_of(side)
    members = [machines.record.machines[name] for machines, _ in runs if name in machines.record.machines]
    return mine is not None and any(not _hard(mine, member.about.fingerprint) for member in members)


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
                cases[key] = _bare(found)
    return replace(first, cases=cases, run_id="+".join(side.run_id for side in [first, *others]))


def _bare(found: SideCase) -> SideCase:
    return replace(found, evidence={name: replace(one, rounds=None) for name, one in found.evidence.items()})


def _loads(found: SideCase) -> int:
    return max((int(evidence.logs.size) for evidence in found.evidence.values()), default=0)


def _equal(one: Side, other: Side) -> bool:
    first, second = fingerprint_of(one), fingerprint_of(other)
    return first is not None and second is not None and not _hard(first, second)


def _hard(first: Fingerprint, second: Fingerprint) -> bool:
    return any(found.hard for found in differences(first, second))


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


def compare_fleets(request: CompareRequest) -> None:
    """Print or write every machine before and after.

    Raises:
        BadInputError: anything asked for is wrong.
        NotComparableError: no machine of both can be compared.
    """
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
    blamed = [c.new.name for c, code in zip(found.comparisons, codes, strict=True) if code == worst != ExitCode.OK]
    names, count = f" ({', '.join(blamed)})" if blamed else "", len(found.comparisons)
    console.print(Text(one_line(f"check of {count} machine{'' if count == 1 else 's'}: {word}{names}"), style="bold"))
