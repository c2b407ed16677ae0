"""A shelf: what several machines measured, side by side. No figure holds samples of two machines.

Machines that do not differ in what matters (the same hard fingerprint) share a column; each figure still says whose it
is. What is best is judged round by round within one run, and between runs and machines by their intervals alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from slmbench.analysis.best import Best, BestPath, DeviceColumn, Row, best_of
from slmbench.analysis.judged_once import figure_of
from slmbench.analysis.metrics import DEFAULT_METRICS, Side, SideCase, matching_key
from slmbench.analysis.pairs import Pair, pairs_of, precision_of
from slmbench.analysis.verdicts import fingerprint_of
from slmbench.case import Workload
from slmbench.errors import one_line
from slmbench.machine.fingerprint import Fingerprint, differences
from slmbench.records.schema import STAND_INS

DEVICES = ("cpu", "gpu", "npu")


@dataclass(frozen=True)
class Stand:
    """One run of one machine."""

    machine: str
    #: May be without cases: a machine of which nothing came back.
    side: Side
    #: Devices it was given cases for, where its side does not say.
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class MachineKind:
    """Machines that do not differ in what matters."""

    machines: tuple[str, ...]
    stands: tuple[Stand, ...]
    #: None where a run kept none: such a run is of a kind of its own.
    fingerprint: Fingerprint | None


@dataclass(frozen=True)
class Matrix:
    """One metric of one task: rows are checkpoints and precisions, columns machines and devices."""

    work: Workload
    metric: str
    rows: tuple[Row, ...]
    places: tuple[DeviceColumn, ...]
    #: An entry a machine; a place that was not measured has none.
    cells: Mapping[tuple[Row, DeviceColumn], tuple[BestPath, ...]]
    best: Best | None
    #: Of each device, and of each row that more than one device ran.
    best_at: Mapping[DeviceColumn, Best]
    best_for: Mapping[Row, Best]
    #: The task whose matrix has the same figures, and says what is best; None where this one does.
    same_as: Workload | None = None

    def entries(self) -> Iterator[BestPath]:
        """Yield every entry, by rows."""
        for row in self.rows:
            for place in self.places:
                yield from self.cells.get((row, place), ())


@dataclass(frozen=True)
class PairAt:
    """What one machine says of one pair."""

    machine: str
    pair: Pair


@dataclass(frozen=True)
class Shelf:
    """Everything that is said of a shelf of machines."""

    kinds: tuple[MachineKind, ...]
    places: tuple[DeviceColumn, ...]
    matrices: tuple[Matrix, ...]
    pairs: tuple[PairAt, ...]
    notes: tuple[str, ...]


def shelf_of(stands: Sequence[Stand], metrics: Sequence[str] = (), notes: Sequence[str] = ()) -> Shelf:
    """Return machines side by side. Nothing in it depends on the order in which they come."""
    kinds = _kinds(stands)
    found = _Found(kinds)
    tasks = sorted(found.works.values(), key=_task_order)
    names = metrics or DEFAULT_METRICS
    matrices = _judged_once([_matrix(found, work, metric) for work in tasks for metric in names])
    pairs = [PairAt(stand.machine, pair) for kind in kinds for stand in kind.stands for pair in pairs_of(stand.side)]
    return Shelf(
        kinds=tuple(kinds),
        places=tuple(found.places),
        matrices=tuple(matrix for matrix in matrices if any(entry.interval for entry in matrix.entries())),
        pairs=tuple(sorted(pairs, key=_pair_order)),
        notes=tuple(dict.fromkeys(one_line(note) for note in [*notes, *_notes(kinds)])),
    )


def _kinds(stands: Sequence[Stand]) -> list[MachineKind]:
    """Group stands whose machines have no hard difference with any other of the group, by name."""
    groups: list[tuple[list[Fingerprint], list[Stand]]] = []
    for stand in sorted(stands, key=lambda s: (s.machine, s.side.created, s.side.run_id)):
        mine = fingerprint_of(stand.side)
        for fingerprints, members in groups:
            if mine is not None and fingerprints and all(mine == one or _alike(mine, one) for one in fingerprints):
                members.append(stand)
                if mine not in fingerprints:
                    fingerprints.append(mine)
                break
        else:
            groups.append(([mine] if mine else [], [stand]))
    kinds: list[MachineKind] = []
    for fingerprints, members in groups:
        taken = {name for kind in kinds for name in kind.machines}
        # A machine that was changed between two runs is another one.
        named = [replace(one, machine=_free(one.machine, taken)) for one in members]
        machines = tuple(dict.fromkeys(one.machine for one in named))
        kinds.append(MachineKind(machines, tuple(named), fingerprints[0] if fingerprints else None))
    return kinds


def _alike(one: Fingerprint, other: Fingerprint) -> bool:
    return not any(found.hard for found in differences(one, other))


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


class _Found:
    """The measured cases of all machines by what they are of."""

    def __init__(self, kinds: Sequence[MachineKind]) -> None:
        self.works: dict[str, Workload] = {}
        self.places: list[DeviceColumn] = []
        self.rows: defaultdict[str, set[Row]] = defaultdict(set)
        self._cases: defaultdict[tuple[DeviceColumn, str, Row, str], list[tuple[Side, SideCase]]] = defaultdict(list)
        for kind in kinds:
            for device in DEVICES:
                machines = tuple(m for m in kind.machines if device in _devices(kind, m))
                if machines:
                    self._add(kind, DeviceColumn(machines, device))

    def _add(self, kind: MachineKind, place: DeviceColumn) -> None:
        self.places.append(place)
        for machine in place.machines:
            for side, found in _measured_once([s.side for s in kind.stands if s.machine == machine]):
                if found.case.device == place.device and _is_shown(found):
                    work, row = found.case.workload, Row(found.case.checkpoint, precision_of(found.case))
                    self.works[work.label()] = work
                    self.rows[work.label()].add(row)
                    self._cases[place, machine, row, work.label()].append((side, found))

    def entries(self, place: DeviceColumn, row: Row, work: Workload, metric: str) -> tuple[BestPath, ...]:
        """Return what each machine of the place says of the row: its fastest path, else why there is no figure."""
        entries = []
        for machine in place.machines:
            known = self._cases.get((place, machine, row, work.label()), [])
            paths = [BestPath(machine, place, row, metric, side, found) for side, found in known]
            if paths:
                entries.append(min(paths, key=_by_speed))
        return tuple(entries)


def _devices(kind: MachineKind, machine: str) -> set[str]:
    mine = [stand for stand in kind.stands if stand.machine == machine]
    seen = {found.case.device for stand in mine for found in stand.side.cases.values() if _is_shown(found)}
    # Of a machine with nothing but stand-ins for a device there is nothing to show on it.
    stood_in = {case.device for stand in mine for case in stand.side.simulated}
    return seen | ({device for stand in mine for device in stand.devices} - stood_in)


def _is_shown(found: SideCase) -> bool:
    """Return whether a case may stand in a matrix: no ablation, and not run on what stands in for its device."""
    return found.case.workload.cache == "on" and found.model.executed_on not in STAND_INS


def _measured_once(sides: Sequence[Side]) -> list[tuple[Side, SideCase]]:
    """Return a machine's cases with the runs they are from; of one measured in several runs the one that says most."""
    chosen: dict[str, tuple[Side, SideCase]] = {}
    for side in sides:
        for key, found in side.cases.items():
            if key not in chosen or _worth(side, found) > _worth(*chosen[key]):
                chosen[key] = side, found
    return list(chosen.values())


def _worth(side: Side, found: SideCase) -> tuple[bool, bool, int, str, str]:
    loads = max((evidence.logs.size for evidence in found.evidence.values()), default=0)
    return found.failure is None, bool(found.evidence), loads, side.created, side.run_id


def _by_speed(entry: BestPath) -> tuple[bool, bool, float, str]:
    time = entry.evidence.estimate.value if entry.evidence else 0.0
    return not entry.eligible, entry.evidence is None, time, entry.found.case.key


def _task_order(work: Workload) -> tuple[int, int, int, int, int, str]:
    return work.input_tokens, work.output_tokens, work.batch, work.turns, work.answers, work.label()


def _matrix(found: _Found, work: Workload, metric: str) -> Matrix:
    rows, places = tuple(sorted(found.rows[work.label()])), tuple(found.places)
    cells = {(row, place): found.entries(place, row, work, metric) for row in rows for place in places}
    at = {place: best_of([entry for row in rows for entry in cells[row, place]]) for place in places}
    run = {row: [entry for place in places for entry in cells[row, place] if entry.eligible] for row in rows}
    each = {row: best_of(entries) for row, entries in run.items() if len({entry.place for entry in entries}) > 1}
    return Matrix(
        work=work,
        metric=metric,
        rows=rows,
        places=places,
        cells=cells,
        best=best_of([entry for entries in cells.values() for entry in entries]),
        best_at={place: best for place, best in at.items() if best is not None},
        best_for={row: best for row, best in each.items() if best is not None},
    )


def _judged_once(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return matrices of which those with the same figures (first tokens of one generation) are judged once."""
    groups: defaultdict[tuple[str, frozenset[tuple[str, str]]], list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        groups[matrix.metric, _figures(matrix)].append(matrix)
    judges = {key: min(group, key=_derived) for key, group in groups.items()}
    judged = []
    for matrix in matrices:
        judge = judges[matrix.metric, _figures(matrix)]
        of_another = judge is not matrix and bool(_figures(matrix))
        as_there = replace(matrix, best=None, best_at={}, best_for={}, same_as=judge.work)
        judged.append(as_there if of_another else matrix)
    return judged


def _figures(matrix: Matrix) -> frozenset[tuple[str, str]]:
    return frozenset(
        (entry.side.run_id, figure_of(matrix.metric, matching_key(entry.found.case), entry.found))
        for entry in matrix.entries()
        if entry.evidence
    )


def _derived(matrix: Matrix) -> int:
    return sum(entry.found.derived_from is not None for entry in matrix.entries())


def _pair_order(at: PairAt) -> tuple[str, str, tuple[int, int, int, int, int, str], str, str, str, str]:
    case = at.pair.encoder.case
    names = case.checkpoint, at.pair.decoder.case.checkpoint
    return (*names, _task_order(case.workload), at.machine, case.device, at.pair.engine, precision_of(case))


def _notes(kinds: Sequence[MachineKind]) -> Iterator[str]:
    digests: defaultdict[str, set[str]] = defaultdict(set)
    for kind in kinds:
        for stand in kind.stands:
            for key, found in stand.side.cases.items():
                digests[found.case.checkpoint].add(found.model.digest)
                if found.failure:
                    yield f"failed on {stand.machine}: {key}: {found.failure}"
            yield from _left_out(stand)
            yield from (f"{stand.machine}: {warning}" for warning in stand.side.warnings)
    for name, found_digests in sorted(digests.items()):
        if len(found_digests) > 1:
            yield f"{name}: the checkpoints of that name differ between machines (other config or weights)"


def _left_out(stand: Stand) -> Iterator[str]:
    simulated: defaultdict[str, int] = defaultdict(int)
    for case in stand.side.simulated:
        simulated[case.device] += 1
    for device, count in sorted(simulated.items()):
        yield f"left out: {stand.machine} {device}: {count} simulated cases: their tokens count, their times do not"
    ablations = sum(found.case.workload.cache == "off" for found in stand.side.cases.values())
    if ablations:
        yield f"left out: {stand.machine}: {ablations} cases without a K/V cache: ablations, no path to choose by"
