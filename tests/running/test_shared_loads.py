"""One load serves several workloads: what is generated, what is derived, and what a fault costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from slmbench.case import Workload
from slmbench.records.schema import (
    SAMPLES_NAME,
    FailureReason,
    FailureRecord,
    LoadRecord,
    MemoryRecord,
    SampleRecord,
    read_samples,
)
from slmbench.running import events as e
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase

MakePlan = Callable[..., PlannedCase]
LENGTHS = ((8, 2), (8, 5), (24, 2), (24, 5))


@pytest.fixture
def settings(quick: MeasureSettings) -> MeasureSettings:
    return replace(quick, repeat=4, foreign_load_bound=100.0)


def records(folder: Path, kind: type) -> list:
    return [record for record in read_samples(folder / SAMPLES_NAME, []) if isinstance(record, kind)]


def shared(planned: MakePlan, name: str = "a", lengths: Sequence[tuple[int, int]] = LENGTHS, **options) -> list:
    """Return cases of one configuration, by input and output tokens."""
    return [
        replace(
            planned(name, workload=Workload(input_tokens=read, output_tokens=said), **options),
            configuration=f"{name}|any",
        )
        for read, said in lengths
    ]


def test_one_process_serves_all_lengths_of_a_load(tmp_path: Path, planned: MakePlan, settings: MeasureSettings) -> None:
    plan = shared(planned)
    measured = measure(plan, tmp_path, settings)
    loads = records(tmp_path, LoadRecord)
    assert {record.configuration for record in loads} == {"a|any"}
    # A survey and four loads, each a process of its own that served every case.
    assert {(record.load, record.pid) for record in loads} == {(r.load, r.pid) for r in loads if r.case == plan[0].key}
    assert len({record.pid for record in loads}) == 5
    assert [outcome.loads for outcome in measured.outcomes.values()] == [4] * 4
    # Shortest first in the survey: a peak never holds what a longer one took.
    assert [record.case for record in records(tmp_path, MemoryRecord)] == [case.key for case in plan]
    # A first inference is of the length that the process read first, and each length has some.
    first = {(record.load, record.case) for record in loads if record.first_inference_ns is not None}
    assert {load for load, _ in first} == {0, 1, 2, 3, 4}
    assert len(first) == 5 * 2


def test_shorter_outputs_are_the_beginning_of_the_longest(
    tmp_path: Path, planned: MakePlan, settings: MeasureSettings
) -> None:
    measure(shared(planned), tmp_path, settings)
    samples = records(tmp_path, SampleRecord)
    whole = {(s.load, s.round, s.input_tokens): s for s in samples if s.derived_from is None}
    derived = [s for s in samples if s.derived_from is not None]
    assert len(whole) == len(derived) == 2 * 4
    assert {s.output_tokens for s in whole.values()} == {5}
    for sample in derived:
        of = whole[sample.load, sample.round, sample.input_tokens]
        assert sample.derived_from == of.case
        assert (sample.output_tokens, sample.token_ns) == (2, of.token_ns[:2])
        assert sample.energy_j is None


def test_lengths_come_in_lanes_and_all_configurations_are_in_one(
    tmp_path: Path, planned: MakePlan, settings: MeasureSettings
) -> None:
    plan = [*shared(planned, "a"), *shared(planned, "b")]
    measure(plan, tmp_path, replace(settings, rounds=3, repeat=6))
    taken = [s for s in records(tmp_path, SampleRecord) if s.derived_from is None]
    by_round: dict[int, set[tuple[str, int]]] = {}
    for sample in taken:
        by_round.setdefault(sample.round, set()).add((sample.case.split("|")[0], sample.input_tokens))
    for members in by_round.values():
        assert {name for name, _ in members} == {"a", "b"}
        assert len({length for _, length in members}) == 1
    for load in {sample.load for sample in taken}:
        lanes = [by_round[r] for r in sorted({s.round for s in taken if s.load == load})]
        changes = sum(one != other for one, other in itertools.pairwise(lanes))
        assert changes == 1


def test_a_workload_that_does_not_fit_costs_no_other(
    tmp_path: Path, planned: MakePlan, settings: MeasureSettings
) -> None:
    plan = shared(planned, lengths=(*LENGTHS, (24, 90)), most_tokens=100)
    measured = measure(plan, tmp_path, settings)
    (failure,) = records(tmp_path, FailureRecord)
    assert (failure.case, failure.reason) == (plan[-1].key, FailureReason.CANNOT_RUN)
    assert "100" in failure.message
    assert [measured.outcomes[case.key].loads for case in plan] == [4, 4, 4, 4, 0]
    # The longest that is left is generated in its place.
    assert {s.case for s in records(tmp_path, SampleRecord) if not s.derived_from} == {plan[1].key, plan[3].key}


def test_a_worker_that_dies_costs_what_it_was_at_and_the_rest_go_on(
    tmp_path: Path, planned: MakePlan, settings: MeasureSettings
) -> None:
    """Generation 7 of a load is the sample of its second lane: the first has all its samples of that load."""
    once = tmp_path / "died"
    plan = shared(planned, fault="sigkill", fault_at=7, once=str(once))
    folder = tmp_path / "run"
    folder.mkdir()
    measured = measure(plan, folder, settings)
    assert once.exists()
    (failure,) = records(folder, FailureRecord)
    assert failure.reason is FailureReason.KILLED
    assert [outcome.loads for key, outcome in measured.outcomes.items() if key != failure.case] == [4] * 3
    samples = records(folder, SampleRecord)
    broken = {s.case for s in samples if s.load == failure.load}
    assert broken
    assert failure.case not in {s.case for s in samples if s.load > (failure.load or 0)}


def test_a_run_is_resumed_inside_a_configuration(tmp_path: Path, planned: MakePlan, settings: MeasureSettings) -> None:
    plan, left = shared(planned), 5

    def stop(event: e.Event) -> None:
        nonlocal left
        left -= isinstance(event, e.SampleTaken)
        if left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(plan, tmp_path, settings, stop)
    before = records(tmp_path, SampleRecord)
    measured = measure(plan, tmp_path, settings)
    samples = records(tmp_path, SampleRecord)
    assert samples[: len(before)] == before
    assert len({(s.case, s.load, s.round) for s in samples}) == len(samples)
    for case in plan:
        mine = [s for s in samples if s.case == case.key]
        # What the kill cut off between a generation and its beginnings is taken again.
        assert len(mine) == 4
        assert measured.outcomes[case.key].loads >= 2
    assert len(records(tmp_path, MemoryRecord)) == 4
