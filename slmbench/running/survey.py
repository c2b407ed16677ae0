"""The survey, which every configuration passes once: opened alone, proven in full, the memory of each of its cases."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from slmbench.running import events as e
from slmbench.running.budget import WARM_UPS
from slmbench.running.case_state import CaseState
from slmbench.running.journal import Journal
from slmbench.running.load import Load, load_record, measure_memory, open_load, start_worker
from slmbench.running.picture_processes import PictureProcesses
from slmbench.running.settings import MeasureSettings
from slmbench.running.worker_process import Worker, WorkerError


def survey(
    journal: Journal,
    states: Sequence[CaseState],
    settings: MeasureSettings,
    avoid: Mapping[int, tuple[int, ...]],
    pictures: PictureProcesses,
) -> None:
    """Survey cases of one configuration; each has a memory record or a failure in the end.

    The shortest comes first: memory that an engine took for a longer one it would keep. If a worker dies,
    the case that it was measuring fails, and a new worker measures the others.
    """
    begin = time.monotonic()
    waiting = sorted(states, key=_size)
    while waiting:
        _survey_once(journal, waiting, settings, avoid, pictures)
        waiting = [state for state in waiting if state.memory is None and state.failure is None]
    _share_costs(states, time.monotonic() - begin)


def _size(state: CaseState) -> tuple[int, int]:
    work = state.planned.case.workload
    return work.longest_input + max(work.outputs()), work.total_output_tokens


def _survey_once(
    journal: Journal,
    waiting: Sequence[CaseState],
    settings: MeasureSettings,
    avoid: Mapping[int, tuple[int, ...]],
    pictures: PictureProcesses,
) -> None:
    number, begin = journal.next_load(waiting[0]), time.monotonic()
    for state in waiting:
        journal.tell(e.Opening(state.key, number, survey=True))
    with start_worker(waiting[0].planned, journal.folder) as worker:
        try:
            load = open_load(worker, waiting[0].planned, number, settings, avoid, survey=True, pictures=pictures)
        except WorkerError as failure:
            journal.fail_load(waiting, number, failure)
            return
        opening_s = time.monotonic() - begin
        for state in waiting:
            state.survey_open_s, state.opening_s = opening_s, opening_s / len(waiting)
            if not _measure(journal, state, worker, load, settings):
                return


def _measure(journal: Journal, state: CaseState, worker: Worker, load: Load, settings: MeasureSettings) -> bool:
    """Measure the memory of one case; return whether the worker lives on."""
    begin = time.monotonic()
    try:
        memory = measure_memory(worker, state.planned, settings)
    except WorkerError as failure:
        journal.fail([state], load.number, failure)
        return worker.alive
    state.generation_s = time.monotonic() - begin
    record = load_record(load, state.planned)
    journal.write(state, record)
    journal.write(state, memory)
    journal.tell(e.Ready(state.key, record))
    return True


def _share_costs(states: Sequence[CaseState], seconds: float) -> None:
    """Spread what the survey took, and what the next load and sample will take, over the cases that share them."""
    longest: dict[tuple[str, str], CaseState] = {}
    for state in sorted(states, key=_size):
        state.survey_s = seconds / len(states)
        if state.failure is None:
            longest[state.planned.generation_key] = state
    for state in states:
        lane = state.planned.generation_key
        if longest.get(lane) is not state:
            # It comes out of a longer generation, at no cost.
            state.generation_s = 0.0
        state.lane_sample_s = longest[lane].generation_s if lane in longest else 0.0
        # A load that is sampled is proven with less, and warmed up instead.
        state.opening_s += WARM_UPS * state.generation_s
