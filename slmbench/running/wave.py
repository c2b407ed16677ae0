"""One wave: a fresh worker for every configuration that still needs a load, and rounds of samples, lane after lane.

All workers measure the same lane (prompts of one length) at the same time; rounds take one generation of each, in an
order drawn for every round, while the other workers are suspended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from slmbench.measure.conditions import ConditionsReader
from slmbench.plan.configuration import lane_of
from slmbench.records.schema import SampleRecord
from slmbench.running import events as e
from slmbench.running.budget import Budget
from slmbench.running.case_state import CaseState
from slmbench.running.journal import Journal, by_configuration
from slmbench.running.load import (
    Load,
    derived_record,
    load_record,
    now,
    open_load,
    sample_record,
    start_worker,
    warm_up,
)
from slmbench.running.picture_processes import PictureProcesses
from slmbench.running.sample_plan import FEWEST_SAMPLES
from slmbench.running.settings import MeasureSettings
from slmbench.running.worker_process import Worker, WorkerError
from slmbench.worker import protocol as p


@dataclass(frozen=True)
class _Served:
    """A load with its worker, and the cases of this wave that it serves."""

    load: Load
    worker: Worker
    states: list[CaseState]


@dataclass
class _Taker:
    """What one load does in a lane: it generates the longest output, and the others are its beginning."""

    served: _Served
    #: The longest output first. Those that fail leave.
    states: list[CaseState]
    rounds: int = 0

    @property
    def generated(self) -> CaseState:
        """Return the case that is generated."""
        return self.states[0]


class Wave:
    """Loads cases once and samples them."""

    def __init__(
        self,
        journal: Journal,
        settings: MeasureSettings,
        conditions: ConditionsReader,
        budget: Budget,
        avoid: Mapping[int, tuple[int, ...]],
        rounds_of: Callable[[CaseState], int],
        pictures: PictureProcesses,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._conditions = conditions
        self._budget = budget
        self._avoid = avoid
        self._rounds_of = rounds_of
        self._pictures = pictures
        #: Whether any sample was taken.
        self.sampled = False

    def run(self, live: Sequence[CaseState], deadline: float | None, end: float | None) -> None:
        """Load the cases and take rounds of samples until ``deadline``; after ``end`` nothing is loaded any more."""
        with ExitStack() as stack:
            loads = self._opened(by_configuration(live), stack, end)
            for pid in self._pictures.pids:
                self._conditions.track(pid)
            self._conditions.settle(self._settings.settle_s)
            lanes = self._lanes(loads)
            for place, lane in enumerate(lanes):
                share = None
                if deadline is not None:
                    share = time.monotonic() + max(0.0, deadline - time.monotonic()) / (len(lanes) - place)
                self._measure_lane(lane, share)

    def _opened(self, served: dict[str, list[CaseState]], stack: ExitStack, end: float | None) -> list[_Served]:
        begin = time.monotonic()
        firsts = {states[0].key: states for states in served.values()}
        order = [firsts[first.key] for first in self._journal.drawn("open", [states[0] for states in served.values()])]
        started = list(self._started(order, stack))
        start_s = (time.monotonic() - begin) / len(order)
        loads: list[_Served] = []
        for states, worker in started:
            begin = time.monotonic()
            if self._budget.strict and end and begin > end and (loads or self.sampled):
                worker.suspend()
                continue
            load = self._load(states, worker)
            if load:
                loads.append(_Served(load, worker, states))
                for state in states:
                    state.opening_s = (start_s + time.monotonic() - begin) / len(states)
        return loads

    def _started(self, order: Sequence[list[CaseState]], stack: ExitStack) -> Iterator[tuple[list[CaseState], Worker]]:
        """Start a worker for each configuration and wait until all are up; yield those that are.

        A model loads alone: another worker starting meanwhile would slow every load but the last.
        """
        workers = [stack.enter_context(start_worker(order[0][0].planned, self._journal.folder))]
        for index, states in enumerate(order):
            if index + 1 < len(order):
                following = order[index + 1][0].planned
                workers.append(stack.enter_context(start_worker(following, self._journal.folder)))
            try:
                workers[index].greet()
            except WorkerError as failure:
                self._journal.fail(states, self._journal.next_load(states[0]), failure)
            else:
                yield states, workers[index]

    def _load(self, states: list[CaseState], worker: Worker) -> Load | None:
        """Open a configuration and leave its worker suspended; None when it failed.

        Which of the prompts it reads first is drawn, so that every length has its first inferences.
        """
        number = self._journal.next_load(states[0])
        for state in states:
            self._journal.tell(e.Opening(state.key, number, survey=False))
        first = self._journal.drawn(f"first/{states[0].planned.load_key}", states)[0]
        try:
            self._conditions.track(worker.pid)
            load = open_load(
                worker, first.planned, number, self._settings, self._avoid, survey=False, pictures=self._pictures
            )
        except WorkerError as failure:
            worker.kill()
            self._journal.fail_load(states, number, failure)
            return None
        worker.suspend()
        return load

    def _lanes(self, loads: Sequence[_Served]) -> list[list[_Taker]]:
        """Return the lanes in an order drawn for this wave."""
        lanes: dict[str, list[_Taker]] = {}
        for served in loads:
            by_lane: dict[str, list[CaseState]] = {}
            for state in served.states:
                by_lane.setdefault(lane_of(state.planned.case.workload), []).append(state)
            for lane, states in by_lane.items():
                states.sort(key=lambda state: -state.planned.case.workload.output_tokens)
                rounds = max(map(self._rounds_of, states))
                lanes.setdefault(lane, []).append(_Taker(served, states, rounds))
        of_first = {takers[0].generated.key: takers for takers in lanes.values()}
        return [of_first[first.key] for first in self._journal.drawn("lane", [t[0].generated for t in lanes.values()])]

    def _measure_lane(self, lane: Sequence[_Taker], deadline: float | None) -> None:
        """Warm the loads up for a lane and take its rounds.

        The first sample follows the last warm-up without a pause: after one its first token came up to 8 % later.
        """
        taking = [taker for taker in self._in_order("sample", lane, None) if self._warm_up(taker)]
        last: CaseState | None = None
        round_s, index = 0.0, 0
        # The variance within a load takes two samples; a budget that somebody named is kept first.
        least = 1 if self._budget.strict else FEWEST_SAMPLES
        while taking:
            begin = time.monotonic()
            if index >= least and deadline and begin + round_s / 2 > deadline:
                return
            order = taking if index == 0 else self._in_order("sample", taking, last)
            last = self._take_round(order)
            self._journal.round += 1
            self.sampled = True
            index += 1
            taking = [taker for taker in taking if taker.states and taker.rounds > index]
            round_s = time.monotonic() - begin
            self._tell_time()

    def _in_order(self, what: str, takers: Sequence[_Taker], after: CaseState | None) -> list[_Taker]:
        by_key = {taker.generated.key: taker for taker in takers if taker.states}
        generated = [taker.generated for taker in by_key.values()]
        return [by_key[state.key] for state in self._journal.drawn(what, generated, after)]

    def _warm_up(self, taker: _Taker) -> bool:
        """Prepare a load for a lane and keep its load records; False when nothing of it can be measured."""
        begin, worker, load = time.monotonic(), taker.served.worker, taker.served.load
        while taker.states:
            if not worker.alive:
                # It died in an earlier lane; that load is over, and the cases that are left have the next one.
                taker.states.clear()
                return False
            try:
                worker.resume()
                warm, timeout_s = warm_up(worker, taker.generated.planned, load, self._settings)
            except WorkerError as failure:
                self._lose(taker, failure)
                continue
            worker.suspend()
            for state in taker.states:
                state.sample_timeout_s = timeout_s
                state.opening_s += (time.monotonic() - begin) / len(taker.states)
                record = load_record(load, state.planned, warm)
                self._journal.write(state, record)
                self._journal.tell(e.Ready(state.key, record))
            return True
        return False

    def _take_round(self, order: Sequence[_Taker]) -> CaseState | None:
        """Sample the cases, then once more those that foreign activity disturbed; return which came last.

        A retake waits for the end of the round: at once, its case would follow itself.
        """
        disturbed = [taker for taker in order if self._sample(taker, retake=0)]
        last = next((taker.generated for taker in reversed(order) if taker.states), None)
        again = self._in_order("retake", disturbed, last)
        if again and again[0].generated is last:
            between = next((taker for taker in order if taker.states and taker.generated is not last), None)
            if between:
                self._exercise(between)
        for taker in again:
            self._sample(taker, retake=1)
        return next((taker.generated for taker in reversed(again) if taker.states), last)

    def _exercise(self, taker: _Taker) -> None:
        """Let a case generate once, off the record, so that the sample that comes next follows another case's work."""
        worker, state = taker.served.worker, taker.generated
        try:
            worker.resume()
            worker.ask(p.Exercise(workload=state.planned.case.workload), p.Exercised, state.sample_timeout_s)
        except WorkerError as failure:
            self._lose(taker, failure)
            return
        worker.suspend()

    def _sample(self, taker: _Taker, *, retake: int) -> bool:
        """Take one sample; say whether foreign activity disturbed it. A load that fails leaves the lane."""
        if not taker.states:
            return False
        try:
            record = self._take(taker, retake=retake)
        except WorkerError as failure:
            self._lose(taker, failure)
            # What is left of this lane is sampled in the next load.
            taker.states.clear()
            return False
        taker.served.worker.suspend()
        return "foreign_load" in record.flags

    def _take(self, taker: _Taker, *, retake: int) -> SampleRecord:
        state, worker, number = taker.generated, taker.served.worker, self._journal.round
        planned = state.planned
        texts, picture = planned.texts(number), planned.picture(number)
        request = p.TakeSample(round=number, retake=retake, texts=texts, picture=picture)
        worker.resume()
        started = now()
        self._conditions.before()
        reply = worker.ask(request, p.Sampled, state.sample_timeout_s)
        conditions = self._conditions.after()
        flags = ["retaken"] if retake else []
        if (conditions.foreign_load or 0.0) > self._settings.foreign_load_bound:
            flags.append("foreign_load")
        record = sample_record(state.planned, taker.served.load.number, number, started, reply, conditions, flags)
        for other in taker.states:
            kept = record if other is state else derived_record(record, other.planned)
            self._journal.write(other, kept)
            self._journal.tell(e.SampleTaken(kept))
        return record

    def _lose(self, taker: _Taker, failure: WorkerError) -> None:
        """Take out the case that a load failed at; where its worker lives on, it still serves the others."""
        self._journal.fail([taker.states.pop(0)], taker.served.load.number, failure)
        if taker.served.worker.alive:
            taker.served.worker.suspend()

    def _tell_time(self) -> None:
        if math.isfinite(left_s := self._budget.left_s):
            self._journal.tell(e.TimeLeft(self._budget.spent_s, left_s))
