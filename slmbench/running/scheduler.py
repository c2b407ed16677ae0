"""The scheduler of rounds: surveys every case once, then loads, samples and judges until all are sure enough.

A *wave* (see there) loads once what still needs it and takes rounds of samples. After a wave every case's intervals
are judged, and the next wave is of those that need it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from slmbench.measure.conditions import ConditionsReader
from slmbench.measure.stop_rule import counted
from slmbench.plan.configuration import merged
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import FailureRecord
from slmbench.report.case_labels import case_labels
from slmbench.running import events as e
from slmbench.running.budget import Budget
from slmbench.running.case_state import CaseState, finished, restore
from slmbench.running.events import Observer
from slmbench.running.journal import Journal, by_configuration
from slmbench.running.memory_blocks import available_bytes, footprint_bytes, make_blocks
from slmbench.running.picture_processes import PictureProcesses
from slmbench.running.settings import Measured, MeasureSettings, PlannedCase, check_settings, tokens_to_avoid
from slmbench.running.survey import survey
from slmbench.running.wave import Wave


def measure(
    plan: Sequence[PlannedCase],
    folder: Path,
    settings: MeasureSettings,
    observer: Observer | None = None,
    *,
    together: Collection[Collection[str]] = (),
    lost: Sequence[FailureRecord] = (),
) -> Measured:
    """Measure every case of the plan into ``folder``; what is there already counts.

    ``lost`` are cases that failed before they could be measured; they are written down with the others.

    Cases whose keys are ``together`` (by default the arms of a case) are loaded side by side until the last of them is
    done, so that every load of one has its neighbour in the others; they are live at once if the memory holds them.
    A case that fails gets a failure record and the others go on. When this is interrupted, every worker is gone
    and every sample taken is on disk. With the same seed, prompts and orders are the same.

    Raises:
        BadInputError: settings or plan are unusable, the folder cannot be written, or it holds another run.
        CannotRunError: the disk is full.
    """
    check_settings(plan, settings)
    states, next_round, there = restore(plan, folder, {record.case for record in lost})
    if ended := finished(folder, states):
        return ended
    for state in states:
        state.judge(settings)
    with SampleWriter(folder) as writer, PictureProcesses(folder) as pictures:
        for record in lost:
            if record.case not in there:
                writer.append(record)
        side_by_side = together or _arms(plan)
        journal = Journal(states, folder, settings.seed, observer or _unobserved, writer, next_round)
        blocks = _Scheduler(journal, side_by_side, settings, pictures).run()
    costs = {state.key: (state.survey_open_s, state.generation_s) for state in states if state.survey_open_s}
    return Measured({state.key: state.outcome(settings) for state in states}, blocks, costs)


def _arms(plan: Sequence[PlannedCase]) -> Collection[Collection[str]]:
    groups: dict[str, list[str]] = {}
    for planned in plan:
        groups.setdefault(planned.case.model_copy(update={"arm": None}).key, []).append(planned.key)
    return groups.values()


def _unobserved(_event: e.Event) -> None:
    """Ignore an event."""


class _Scheduler:
    def __init__(
        self,
        journal: Journal,
        together: Collection[Collection[str]],
        settings: MeasureSettings,
        pictures: PictureProcesses,
    ) -> None:
        self._pictures = pictures
        self._journal = journal
        self._states = journal.states
        self._group_of = {key: number for number, keys in enumerate(together) for key in keys}
        self._members = self._groups(self._states)
        self._settings = settings
        self._avoid = tokens_to_avoid([state.planned for state in self._states])
        generations = len({state.planned.generation_key for state in self._states})
        seconds = None if settings.repeat and settings.budget_s is None else settings.budget_for(generations)
        self._budget = Budget(seconds, strict=settings.strict_budget)
        self._wave = Wave(journal, settings, ConditionsReader(), self._budget, self._avoid, self._rounds_of, pictures)

    def run(self) -> tuple[tuple[str, ...], ...]:
        """Survey, then measure block after block; return the blocks."""
        labels = case_labels([state.planned.case for state in self._states])
        self._journal.tell(e.Begun(tuple(state.key for state in self._states), self._budget.seconds, labels))
        self._survey_all()
        blocks = self._blocks()
        self._journal.tell(e.Blocked(tuple(tuple(s.key for s in block) for block in blocks)))
        wanting = [sum(not state.done(self._settings) for state in block) for block in blocks]
        left = sum(wanting)
        for block, count in zip(blocks, wanting, strict=True):
            # A block's cases get their share of the budget left.
            self._measure_block(block, self._budget.deadline(count / max(1, left)))
            left -= count
        if skipped := tuple(state.key for state in self._states if state.unmeasured()):
            self._journal.tell(e.Skipped(skipped, self._budget.seconds))
        self._journal.tell(e.Ended())
        return tuple(tuple(state.key for state in block) for block in blocks)

    def _survey_all(self) -> None:
        """Survey what was not yet, what is judged or loaded together in a row, while the budget admits more."""
        waiting = [state for state in self._states if state.memory is None and state.failure is None]
        for number, group in enumerate(self._joined(waiting)):
            if number and not self._budget.admits(self._states, len(group)):
                return
            for states in by_configuration(group).values():
                survey(self._journal, states, self._settings, self._avoid, self._pictures)
                self._tell_time(self._budget.left_s)

    def _joined(self, states: Sequence[CaseState]) -> list[list[CaseState]]:
        """Return the states in groups that are judged together or share loads with each other."""
        by_key = {state.key: state for state in states}
        shared = {state.key: state.planned.load_key for state in states}
        groups = [[state.key for state in group] for group in self._groups(states).values()]
        return [[by_key[key] for key in group] for group in merged(groups, shared)]

    def _groups(self, states: Sequence[CaseState]) -> dict[int | str, list[CaseState]]:
        groups: dict[int | str, list[CaseState]] = {}
        for state in states:
            groups.setdefault(self._group(state), []).append(state)
        return groups

    def _tell_time(self, left_s: float) -> None:
        if math.isfinite(left_s):
            self._journal.tell(e.TimeLeft(self._budget.spent_s, max(0.0, left_s)))

    def _blocks(self) -> list[list[CaseState]]:
        """Return which cases are live together. What is live is a configuration, with the most that one case took."""
        timed = [state for state in self._states if not state.failure and not state.proven_only]
        served = by_configuration(state for state in timed if state.memory)
        footprints = [
            max((state.memory for state in states if state.memory), key=footprint_bytes).model_copy(
                update={"case": load_key}
            )
            for load_key, states in served.items()
        ]
        room = self._settings.memory_share * available_bytes()
        together = [list(by_configuration(group)) for group in self._joined(timed)]
        blocks = make_blocks(footprints, room, together)
        return [[state for load_key in block for state in served[load_key]] for block in blocks]

    def _measure_block(self, block: Sequence[CaseState], deadline: float | None) -> None:
        wave_s = 0.0
        while live := self._affordable(block, deadline):
            begin = time.monotonic()
            # A wave that would overshoot by more than half of itself is not begun, but for the loads without which
            # there is no interval at all, where nobody named a budget.
            owed = 0 if self._budget.strict else self._loads_owed(live)
            if deadline and begin + wave_s / 2 > deadline and not owed:
                return
            self._wave.run(live, self._wave_deadline(live, deadline), deadline)
            wave_s = time.monotonic() - begin
            for state in live:
                self._judge(state)
            waves = max((state.loads_left(self._settings) for state in block), default=0)
            left = waves * wave_s
            if deadline:
                left = max(min(left, deadline - time.monotonic()), (owed - 1) * wave_s)
            self._tell_time(left)

    def _affordable(self, block: Sequence[CaseState], deadline: float | None) -> list[CaseState]:
        """Return the cases that the next wave is of: those not done for which there is time."""
        live = self._live(block)
        chosen = self._budget.affordable(self._groups(live).values(), deadline, one=not self._wave.sampled)
        return [state for state in live if state.key in chosen]

    def _loads_owed(self, live: Sequence[CaseState]) -> int:
        """Return how many more loads the case with the fewest gets, however long they take."""
        least = self._settings.first_loads
        if self._settings.repeat is not None:
            least = min(least, self._settings.repeat)
        return max(0, least - min(state.sampled_loads for state in live))

    def _wave_deadline(self, live: Sequence[CaseState], deadline: float | None) -> float | None:
        """Return when the next wave must end: the loads still wanted share what is left of the budget."""
        if deadline is None:
            return None
        now_s = time.monotonic()
        left = max(state.loads_left(self._settings) for state in live)
        wanted = max(1, left, self._settings.wanted_loads - min(state.sampled_loads for state in live))
        return now_s + max(0.0, deadline - now_s) / wanted

    def _live(self, block: Sequence[CaseState]) -> list[CaseState]:
        """Return the cases that the next wave is of: those not done, and what is judged together with them."""
        wanting = {self._group(state) for state in block if not state.done(self._settings)}
        return [s for s in block if self._group(s) in wanting and s.can_go_on(self._settings)]

    def _group(self, state: CaseState) -> int | str:
        return self._group_of.get(state.key, state.key)

    def _judge(self, state: CaseState) -> None:
        state.judge(self._settings)
        done = state.done(self._settings)
        found = state.converged(self._settings)
        sure = self._settings.repeat is not None or (bool(found) and all(found.values()))
        figures = dict(state.intervals)
        self._journal.tell(e.Judged(state.key, state.sampled_loads, len(counted(state.samples)), figures, done, sure))

    def _rounds_of(self, state: CaseState) -> int:
        """Return how many samples the next load is to take of a case: as many of each that is judged with it."""
        alike = [other for other in self._members[self._group(state)] if other.can_go_on(self._settings)]
        return max(other.rounds_wanted(self._settings) for other in [state, *alike])
