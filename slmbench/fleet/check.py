"""Two runs of the same machines, before and after: each machine is judged against itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.verdicts import Comparison, fingerprint_of
from slmbench.errors import NotComparableError, one_line
from slmbench.fleet.read import Machines, unfinished
from slmbench.machine.fingerprint import Fingerprint, differences


@dataclass(frozen=True)
class FleetVerdicts:
    """Two runs of the same machines, machine by machine."""

    comparisons: list[Comparison]
    #: Machines that cannot be judged, each with the reason.
    problems: list[str]


def judge_fleets(
    base: Machines, new: Machines, judge: Callable[[Side, Side, float, float], Comparison]
) -> FleetVerdicts:
    """Judge every machine of the base against itself; a machine without a counterpart is a problem.

    Equal machines share what they measure, so a case may have moved to another one of them: it is still judged,
    with a warning. ``judge`` also takes the machine's share of alpha, so that the chance of a false alarm is that of
    the whole check.
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
            comparisons.append(judge(before, after, 1 / len(couples), 1.0))
        except NotComparableError as error:
            problems.append(f"machine {Path(after.name).name}: {one_line(str(error))}")
    return FleetVerdicts(comparisons, problems)


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
    """Return why a machine cannot be judged; None if it can, or if neither run had work for it."""
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
            reasons.append(f"measured nothing in {machines.label}: {why}")
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
                # Its rounds belong to another run: they do not pair with those of the first one.
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
