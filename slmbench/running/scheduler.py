"""The scheduler of rounds: surveys every case once, then loads, samples and judges until all are sure enough.

A *wave* opens a fresh worker for every case that still needs one; its *rounds* take one sample of each, in an
order drawn again every round, while the other workers are suspended. After a wave every case's intervals are
judged, and the next wave is of those that need it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import TypeAlias

from slmbench.errors import CannotRunError
from slmbench.measure.conditions import ConditionsReader
from slmbench.models.artifact import MANIFEST_NAME
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import FailureRecord, LoadRecord, MemoryRecord, SampleRecord
from slmbench.running import events as e
from slmbench.running.budget import WARM_UPS, Budget
from slmbench.running.case_state import CaseState, finished, restore
from slmbench.running.events import Observer
from slmbench.running.load import measure_memory, now, open_case, sample_record, start_worker
from slmbench.running.memory_blocks import available_bytes, make_blocks
from slmbench.running.settings import Measured, MeasureSettings, PlannedCase, check_settings, tokens_to_avoid
from slmbench.running.worker_process import Worker, WorkerError, log_path, log_tail
from slmbench.worker import protocol as p


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
    with SampleWriter(folder) as writer:
        for record in lost:
            if record.case not in there:
                writer.append(record)
        side_by_side = together or _arms(plan)
        scheduler = _Scheduler(states, side_by_side, folder, settings, observer or _unobserved, writer, next_round)
        blocks = scheduler.run()
    return Measured({state.key: state.outcome(settings) for state in states}, blocks)


def _arms(plan: Sequence[PlannedCase]) -> Collection[Collection[str]]:
    groups: dict[str, list[str]] = {}
    for planned in plan:
        groups.setdefault(planned.case.model_copy(update={"arm": None}).key, []).append(planned.key)
    return groups.values()


def _unobserved(_event: e.Event) -> None:
    """Ignore an event."""


Workers: TypeAlias = dict[str, tuple[CaseState, Worker]]


class _Scheduler:
    def __init__(
        self,
        states: Sequence[CaseState],
        together: Collection[Collection[str]],
        folder: Path,
        settings: MeasureSettings,
        observer: Observer,
        writer: SampleWriter,
        next_round: int,
    ) -> None:
        self._states = states
        self._together = together
        self._group_of = {key: number for number, keys in enumerate(together) for key in keys}
        self._places = {state.key: place for place, state in enumerate(states)}
        self._folder = folder
        self._settings = settings
        self._observer = observer
        self._writer = writer
        self._round = next_round
        self._avoid = tokens_to_avoid([state.planned for state in states])
        self._conditions = ConditionsReader()
        seconds = None if settings.repeat and settings.budget_s is None else settings.budget_for(len(states))
        self._budget = Budget(seconds, strict=settings.strict_budget)
        self._sampled = False

    def run(self) -> tuple[tuple[str, ...], ...]:
        """Survey, then measure block after block; return the blocks."""
        self._observer(e.Begun(tuple(state.key for state in self._states), self._budget.seconds))
        self._survey_all()
        blocks = self._blocks()
        self._observer(e.Blocked(tuple(tuple(s.key for s in block) for block in blocks)))
        self._budget.proven()
        wanting = [sum(not state.done(self._settings) for state in block) for block in blocks]
        left = sum(wanting)
        for block, count in zip(blocks, wanting, strict=True):
            # A block's cases get their share of the budget left.
            self._measure_block(block, self._budget.deadline(count / max(1, left)))
            left -= count
        if skipped := tuple(state.key for state in self._states if state.unmeasured()):
            self._observer(e.Skipped(skipped, self._budget.seconds))
        self._observer(e.Ended())
        return tuple(tuple(state.key for state in block) for block in blocks)

    def _survey_all(self) -> None:
        """Survey what was not yet, cases that are judged together behind each other, while the budget admits more."""
        waiting = [state for state in self._states if state.memory is None and state.failure is None]
        for number, group in enumerate(self._groups(waiting)):
            if number and not self._budget.admits(self._states, len(group)):
                return
            for state in group:
                self._survey(state)
                self._tell_time(self._budget.left_s)

    def _groups(self, states: Sequence[CaseState]) -> list[list[CaseState]]:
        groups: dict[int | str, list[CaseState]] = {}
        for state in states:
            groups.setdefault(self._group(state), []).append(state)
        return list(groups.values())

    def _tell_time(self, left_s: float) -> None:
        if math.isfinite(left_s):
            self._observer(e.TimeLeft(self._budget.spent_s, max(0.0, left_s)))

    def _survey(self, state: CaseState) -> None:
        """Open the case alone: the full proof, its first-ever load and compile times, its memory."""
        load, begin = state.next_load, time.monotonic()
        self._observer(e.Opening(state.key, load, survey=True))
        try:
            with start_worker(state.planned, self._folder) as worker:
                record, _ = open_case(worker, state.planned, load, self._settings, self._avoid, survey=True)
                opened = time.monotonic()
                memory = measure_memory(worker, state.planned, self._settings)
                state.generation_s = time.monotonic() - opened
        except WorkerError as failure:
            state.survey_s, state.opening_s = time.monotonic() - begin, 0.0
            self._fail(state, load, failure)
            return
        state.survey_s = time.monotonic() - begin
        # A load that is sampled is proven with less, and warmed up instead.
        state.opening_s = opened - begin + WARM_UPS * state.generation_s
        self._write(state, record)
        self._write(state, memory)
        self._observer(e.Ready(state.key, record))

    def _blocks(self) -> list[list[CaseState]]:
        by_key = {state.key: state for state in self._states}
        timed = [state for state in self._states if not state.failure and not state.planned.case.simulate]
        room = self._settings.memory_share * available_bytes()
        blocks = make_blocks([state.memory for state in timed if state.memory], room, self._together)
        return [[by_key[key] for key in block] for block in blocks]

    def _measure_block(self, block: Sequence[CaseState], deadline: float | None) -> None:
        wave_s = 0.0
        while live := self._affordable(block, deadline):
            begin = time.monotonic()
            # A wave that would overshoot by more than half of itself is not begun, but for the loads without which
            # there is no interval at all, where nobody named a budget.
            owed = 0 if self._budget.strict else self._loads_owed(live)
            if deadline and begin + wave_s / 2 > deadline and not owed:
                return
            self._wave(live, self._wave_deadline(live, deadline), deadline)
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
        chosen = self._budget.affordable(self._groups(live), deadline, one=not self._sampled)
        return [state for state in live if state.key in chosen]

    def _loads_owed(self, live: Sequence[CaseState]) -> int:
        """Return how many more loads the case with the fewest needs before its interval is believed."""
        least = self._settings.min_loads
        if self._settings.repeat is not None:
            least = min(least, self._settings.repeat)
        return max(0, least - min(state.sampled_loads for state in live))

    def _wave_deadline(self, live: Sequence[CaseState], deadline: float | None) -> float | None:
        """Return when the next wave must end: the loads still owed share what is left of the budget."""
        if deadline is None:
            return None
        now_s = time.monotonic()
        return now_s + max(0.0, deadline - now_s) / max(1, self._loads_owed(live))

    def _live(self, block: Sequence[CaseState]) -> list[CaseState]:
        """Return the cases that the next wave is of: those not done, and what is judged together with them."""
        wanting = {self._group(state) for state in block if not state.done(self._settings)}
        return [s for s in block if self._group(s) in wanting and s.can_go_on(self._settings)]

    def _group(self, state: CaseState) -> int | str:
        return self._group_of.get(state.key, state.key)

    def _judge(self, state: CaseState) -> None:
        state.judge(self._settings)
        done = state.done(self._settings)
        self._observer(e.Judged(state.key, state.sampled_loads, len(state.samples), dict(state.intervals), done))

    def _wave(self, live: Sequence[CaseState], deadline: float | None, end: float | None) -> None:
        """Load the cases and take rounds of samples until ``deadline``; after ``end`` no case is loaded any more."""
        quota = {state.key: state.rounds_wanted(self._settings) for state in live}
        begin = time.monotonic()
        with ExitStack() as stack:
            workers: Workers = {}
            started = self._started(self._drawn("open", live), stack)
            start_s = (time.monotonic() - begin) / len(live)
            for state, worker in started:
                begin = time.monotonic()
                if self._budget.strict and end and begin > end and (workers or self._sampled):
                    worker.suspend()
                    continue
                if self._load(state, worker):
                    workers[state.key] = (state, worker)
                    state.opening_s = start_s + time.monotonic() - begin
            self._conditions.settle(self._settings.settle_s)
            last: CaseState | None = None
            round_s = 0.0
            for index in range(max(quota.values())):
                if index and deadline and time.monotonic() + round_s / 2 > deadline:
                    return
                begin = time.monotonic()
                taking = [s for s, _ in workers.values() if quota[s.key] > index]
                order = self._drawn("sample", taking, after=last)
                if index == 0 and order:
                    self._prime(order[-1], workers)
                last = self._take_round(order, workers)
                self._round += 1
                self._sampled = True
                round_s = time.monotonic() - begin
                self._tell_time(self._budget.left_s)

    def _started(self, order: Sequence[CaseState], stack: ExitStack) -> list[tuple[CaseState, Worker]]:
        """Start a worker for each case and wait until all are up; return those that are.

        A model loads alone: another worker starting meanwhile would slow every load but the last.
        """
        workers = [stack.enter_context(start_worker(order[0].planned, self._folder))]
        ready = []
        for index, state in enumerate(order):
            if index + 1 < len(order):
                workers.append(stack.enter_context(start_worker(order[index + 1].planned, self._folder)))
            try:
                workers[index].greet()
            except WorkerError as failure:
                self._fail(state, state.next_load, failure)
            else:
                ready.append((state, workers[index]))
        return ready

    def _take_round(self, order: Sequence[CaseState], workers: Workers) -> CaseState | None:
        """Sample the cases, then once more those that foreign activity disturbed; return which came last.

        A retake waits for the end of the round: at once, its case would follow itself.
        """
        disturbed = [state for state in order if self._sample(state, workers, retake=0)]
        last = order[-1] if order else None
        again = self._drawn("retake", disturbed, after=last)
        if again and again[0] is last:
            between = next((state for state, _ in workers.values() if state is not last), None)
            if between:
                self._prime(between, workers)
        for state in again:
            self._sample(state, workers, retake=1)
        return again[-1] if again else last

    def _drawn(self, what: str, states: Sequence[CaseState], after: CaseState | None = None) -> list[CaseState]:
        """Return the states in an order drawn from the seed, for this round and this use alone.

        Drawn from the plan's order, whatever order they come in: a permutation drawn twice from one seed would undo
        itself, and of two cases the same one would always come first. It does not begin with ``after``: a case that
        follows itself finds its weights in the caches (seen: 5 % to the first token), and each should follow another.
        """
        order = sorted(states, key=lambda state: self._places[state.key])
        random = Random(f"{self._settings.seed}/{self._round}/{what}")
        random.shuffle(order)
        while len(order) > 1 and order[0] is after:
            random.shuffle(order)
        return order

    def _prime(self, state: CaseState, workers: Workers) -> None:
        """Let a case generate once, off the record, so that the sample that comes next follows another case's work.

        A wave's first sample would else be the only one that follows a pause: its first token comes up to 8 % later.
        """
        _, worker = workers[state.key]
        try:
            worker.resume()
            worker.ask(p.Exercise(), p.Exercised, state.sample_timeout_s)
        except WorkerError as failure:
            self._lose(state, workers, failure)
            return
        worker.suspend()

    def _load(self, state: CaseState, worker: Worker) -> bool:
        """Open the case for a wave and leave its worker suspended; False when it failed."""
        load = state.next_load
        self._observer(e.Opening(state.key, load, survey=False))
        try:
            self._conditions.track(worker.pid)
            record, state.sample_timeout_s = open_case(
                worker, state.planned, load, self._settings, self._avoid, survey=False
            )
        except WorkerError as failure:
            worker.kill()
            self._fail(state, load, failure)
            return False
        worker.suspend()
        self._write(state, record)
        self._observer(e.Ready(state.key, record))
        return True

    def _sample(self, state: CaseState, workers: Workers, *, retake: int) -> bool:
        """Take one sample; say whether foreign activity disturbed it. A case without a worker leaves ``workers``."""
        if state.key not in workers:
            return False
        _, worker = workers[state.key]
        try:
            record = self._take(state, worker, retake=retake)
        except WorkerError as failure:
            self._lose(state, workers, failure)
            return False
        worker.suspend()
        return "foreign_load" in record.flags

    def _take(self, state: CaseState, worker: Worker, *, retake: int) -> SampleRecord:
        request = p.TakeSample(round=self._round, retake=retake, texts=state.planned.texts(self._round))
        worker.resume()
        started = now()
        self._conditions.before()
        reply = worker.ask(request, p.Sampled, state.sample_timeout_s)
        conditions = self._conditions.after()
        flags = ["retaken"] if retake else []
        if (conditions.foreign_load or 0.0) > self._settings.foreign_load_bound:
            flags.append("foreign_load")
        record = sample_record(state.planned, state.loads[-1].load, self._round, started, reply, conditions, flags)
        self._write(state, record)
        self._observer(e.SampleTaken(record))
        return record

    def _lose(self, state: CaseState, workers: Workers, failure: WorkerError) -> None:
        _, worker = workers.pop(state.key)
        worker.kill()
        self._fail(state, state.loads[-1].load, failure)

    def _fail(self, state: CaseState, load: int, failure: WorkerError) -> None:
        """Record why the case failed.

        Raises:
            CannotRunError: its artifact is gone: that is not the case's doing, and the run can be taken up again.
        """
        if not (state.planned.artifact / MANIFEST_NAME).exists():
            raise CannotRunError(
                f"{state.planned.artifact}: was removed while it was measured; samples are kept, "
                f"`slmbench run --resume {self._folder}` exports it again and continues"
            )
        record = FailureRecord(
            case=state.key,
            load=load,
            reason=failure.reason,
            message=failure.message,
            log_tail=log_tail(log_path(self._folder, state.key)),
        )
        self._write(state, record)
        self._observer(e.CaseFailed(record))

    def _write(self, state: CaseState, record: LoadRecord | SampleRecord | MemoryRecord | FailureRecord) -> None:
        self._writer.append(record)
        state.add(record)
