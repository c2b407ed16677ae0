"""A run from plan to records: loads, rounds, failures, resuming."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from slmbench.case import Workload
from slmbench.errors import BadInputError
from slmbench.records.schema import (
    SAMPLES_NAME,
    LoadRecord,
    MemoryRecord,
    Outcome,
    RunRecord,
    SampleRecord,
    read_samples,
    write_run,
)
from slmbench.running import events as e
from slmbench.running import survey, wave
from slmbench.running.case_state import CaseState
from slmbench.running.load import start_worker
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase, tokens_to_avoid
from slmbench.running.worker_process import Worker

MakePlan = Callable[..., PlannedCase]


def records(folder: Path, kind: type) -> list:
    return [record for record in read_samples(folder / SAMPLES_NAME, []) if isinstance(record, kind)]


def test_every_case_is_surveyed_loaded_and_sampled(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    plan = [planned("a", engine_cache=str(tmp_path)), planned("b", ttft_ms=5)]
    measured = measure(plan, tmp_path, quick)
    assert {key.split("|")[0] for key in measured.outcomes} == {"a", "b"}
    samples = records(tmp_path, SampleRecord)
    counted = [s for s in samples if "retaken" not in s.flags]
    assert len(counted) == 8
    # Four samples over loads 1 to 4; load 0 is the survey.
    assert sorted(s.load for s in counted if s.case.startswith("a|")) == [1, 2, 3, 4]
    loads = records(tmp_path, LoadRecord)
    assert len(loads) == 10
    assert {r.agreement for r in loads} == {1.0}
    # The survey compares all golden tokens, a later load the first prompt's.
    assert [r.agreement_tokens for r in loads if r.case.startswith("a|")] == [12, 6, 6, 6, 6]
    # Nor does the survey take compiled blobs from the engine's cache.
    assert [r.engine_cache for r in loads if r.case.startswith("a|")] == [False, True, True, True, True]
    assert len(records(tmp_path, MemoryRecord)) == 2
    assert len(measured.blocks) == 1
    slow = [s.token_ns[0] for s in samples if s.case.startswith("b|")]
    assert min(slow) >= 5e6
    assert all(len(s.token_ns) == 4 and s.phases_ns == {"first_step": s.phases_ns["first_step"]} for s in samples)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_order(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    def order(name: str, seed: int) -> list[tuple[str, int]]:
        folder = tmp_path / name
        folder.mkdir()
        plan = [planned(f"case{i}", ttft_ms=0, step_ms=0) for i in range(5)]
        measure(plan, folder, replace(quick, seed=seed, repeat=2, foreign_load_bound=100.0))
        return [(s.case, s.round) for s in records(folder, SampleRecord)]

    first = order("first", 1)
    assert order("again", 1) == first
    assert order("other", 2) != first
    rounds = [[case for case, r in first if r == n] for n in range(2)]
    assert set(rounds[0]) == set(rounds[1])
    assert rounds[0] != rounds[1]


def test_no_case_has_a_place_of_its_own_in_the_order(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    """Of two cases each is opened first, and sampled first after opening, in some waves; neither follows the other."""
    settings = replace(quick, repeat=None, min_loads=16, max_loads=16, rounds=1, budget_s=600, foreign_load_bound=100.0)
    plan = [planned(name, ttft_ms=0, step_ms=0) for name in "ab"]
    measure(plan, tmp_path, settings)
    sampled = [s.case for s in records(tmp_path, SampleRecord)][::2]
    loads = sorted((r for r in records(tmp_path, LoadRecord) if r.load), key=lambda r: r.started)
    opened = [r.case for r in loads][::2]
    # A fair coin falls on one side 14 times of 16 or more with 0.4 % of seeds; this seed is none of them.
    assert 3 <= sampled.count(plan[0].key) <= 13
    assert 3 <= opened.count(plan[0].key) <= 13
    assert 3 <= sum(first == second for first, second in zip(opened, sampled, strict=True)) <= 13


def test_no_case_follows_itself(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    settings = replace(quick, repeat=None, min_loads=2, max_loads=2, rounds=12, budget_s=600, foreign_load_bound=100.0)
    measure([planned(name, ttft_ms=0, step_ms=0) for name in "abc"], tmp_path, settings)
    taken = [(s.load, s.case) for s in records(tmp_path, SampleRecord)]
    assert len(taken) == 2 * 3 * 12
    assert all(first != second for first, second in itertools.pairwise(taken))


def test_a_retake_does_not_follow_its_own_sample(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    settings = replace(quick, repeat=None, min_loads=2, max_loads=2, rounds=6, budget_s=600, foreign_load_bound=-1.0)
    measure([planned(name, ttft_ms=0, step_ms=0) for name in "abc"], tmp_path, settings)
    taken = [(s.load, s.round, s.case, "retaken" in s.flags) for s in records(tmp_path, SampleRecord)]
    assert len(taken) == 2 * 3 * 6 * 2
    for first, second in itertools.pairwise(taken):
        assert (first[0], first[2]) != (second[0], second[2])
        # A round's retakes come when all its samples have been taken.
        assert first[1] != second[1] or first[3] <= second[3]


def test_idle_workers_are_suspended(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    """When a sample ends, every worker but its own stands still."""
    seen: list[list[str]] = []

    def look(event: e.Event) -> None:
        if isinstance(event, e.SampleTaken):
            seen.append(sorted(child.status() for child in psutil.Process().children()))

    measure([planned(name) for name in "abc"], tmp_path, replace(quick, repeat=1, foreign_load_bound=100.0), look)
    assert len(seen) == 3
    for states in seen:
        assert states.count(psutil.STATUS_STOPPED) == 2
        assert len(states) == 3


@pytest.mark.slow
def test_a_case_stops_when_its_intervals_are_narrow(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    settings = replace(quick, repeat=None, ttft_target=0.9, tpot_target=0.9, budget_s=60, foreign_load_bound=100.0)
    measured = measure([planned("a", ttft_ms=20, step_ms=20)], tmp_path, settings)
    (outcome,) = measured.outcomes.values()
    assert outcome.loads == 3
    assert outcome.converged == {"ttft": True, "tpot": True}
    assert len(records(tmp_path, SampleRecord)) == 6
    # A killed host may not have come to say so: who resumes finds that nothing is missing.
    assert measure([planned("a", ttft_ms=20, step_ms=20)], tmp_path, settings) == measured
    assert len(records(tmp_path, SampleRecord)) == 6
    assert outcome.half_width["ttft"] is not None
    assert outcome.half_width["ttft"] < 0.9


def test_what_is_judged_together_is_loaded_together_until_the_last_is_done(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    """One of a pair is sure after three loads, its partner and a third case never are: no load lacks a neighbour."""
    settings = replace(
        quick, repeat=None, ttft_target=0.2, tpot_target=0.9, max_loads=6, budget_s=600, foreign_load_bound=100.0
    )
    sure, unsure, alone = (
        planned("sure", ttft_ms=20),
        planned("unsure", ttft_ms=4, lottery=4),
        planned("alone", ttft_ms=20),
    )
    measure([sure, unsure, alone], tmp_path, settings, together=[[sure.key, unsure.key], [alone.key]])
    rounds: dict[str, dict[int, set[int]]] = {}
    for sample in records(tmp_path, SampleRecord):
        rounds.setdefault(sample.case, {}).setdefault(sample.load, set()).add(sample.round)
    assert len(rounds[unsure.key]) > 3
    assert list(rounds[sure.key].values()) == list(rounds[unsure.key].values())
    # A case that is judged with no other needs no more loads than its own figures want.
    assert len(rounds[alone.key]) < len(rounds[sure.key])


def test_no_worker_starts_while_a_model_loads(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def start(case: PlannedCase, folder: Path) -> Worker:
        told.append("start")
        return start_worker(case, folder)

    def look(event: e.Event) -> None:
        if isinstance(event, e.Opening) and not event.survey:
            told.append("open")

    for module in (survey, wave):
        monkeypatch.setattr(module, "start_worker", start)
    measure([planned(name) for name in "abc"], tmp_path, replace(quick, repeat=1), look)
    # Three surveys, one worker each; then all three workers of the wave, and only then the first model.
    assert told == ["start"] * 6 + ["open"] * 3


def test_a_spent_budget_leaves_a_case_not_converged(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    settings = replace(quick, repeat=None, ttft_target=1e-9, tpot_target=1e-9, budget_s=0.01)
    measured = measure([planned("a"), planned("b")], tmp_path, settings)
    for outcome in measured.outcomes.values():
        # Fewer loads than these would have no interval.
        assert outcome.loads == settings.min_loads
        assert outcome.converged == {"ttft": False, "tpot": False}
        assert all((width or 0) > settings.ttft_target for width in outcome.half_width.values())
    # Every case has figures, however small the budget.
    assert {s.case for s in records(tmp_path, SampleRecord)} == set(measured.outcomes)


@pytest.mark.slow
def test_loads_go_on_while_an_interval_is_wide_and_the_budget_lasts(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    wide = replace(quick, repeat=None, rounds=1000, ttft_target=1e-9, tpot_target=1e-9, foreign_load_bound=100.0)
    settings = replace(wide, budget_s=8.0)
    left: list[e.TimeLeft] = []

    def look(event: e.Event) -> None:
        if isinstance(event, e.TimeLeft):
            left.append(event)

    began = time.monotonic()
    measure([planned("a")], tmp_path, settings, look)
    assert time.monotonic() - began >= 0.6 * 8.0
    taken: dict[int, list[datetime]] = {}
    for sample in records(tmp_path, SampleRecord):
        taken.setdefault(sample.load, []).append(datetime.fromisoformat(sample.started))
    first_load = taken[min(taken)]
    # Its 1,000 samples would have taken all of the budget: time for a dozen loads is left.
    assert (max(first_load) - min(first_load)).total_seconds() <= 0.25 * 8.0
    assert len(taken) >= settings.min_loads
    # What was measured and what is left are the budget, from the first proof on.
    first = left[0]
    assert first.spent_s + first.left_s == pytest.approx(8.0, abs=0.1)


def test_a_disturbed_sample_is_taken_again_once(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    measured = measure([planned("a")], tmp_path, replace(quick, repeat=2, foreign_load_bound=-1.0))
    samples = records(tmp_path, SampleRecord)
    assert [s.flags for s in samples] == [("foreign_load",), ("retaken", "foreign_load")] * 2
    (outcome,) = measured.outcomes.values()
    assert any("2 of 2 samples were disturbed" in text for text in outcome.warnings)


def test_what_does_not_fit_memory_is_measured_in_blocks(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    most: list[int] = []

    def look(event: e.Event) -> None:
        if isinstance(event, e.SampleTaken):
            most.append(len(psutil.Process().children()))

    measured = measure([planned("a"), planned("b")], tmp_path, replace(quick, repeat=1, memory_share=1e-6), look)
    assert [len(block) for block in measured.blocks] == [1, 1]
    assert set(most) == {1}
    assert all(outcome.loads == 1 for outcome in measured.outcomes.values())


def test_a_simulated_accelerator_is_proven_and_never_timed(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    case = planned("a", case={"device": "npu", "simulate": True}, executed_on="npuw-cpu", simulate=True)
    measured = measure([case], tmp_path, quick)
    assert not records(tmp_path, SampleRecord)
    (load,) = records(tmp_path, LoadRecord)
    assert (load.requested_device, load.executed_on, load.agreement) == ("npu", "npuw-cpu", 1.0)
    assert measured.outcomes[case.key].loads == 0


def test_texts_are_tokenised_in_turn(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    words = {"[UNK]": 0, **{f"w{i}": i + 3 for i in range(20)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    workload = Workload(batch=2, input_tokens=4, output_tokens=3, prompts="0" * 8)
    case = replace(planned("a", workload=workload), prompts=("w1 w2", "w3 w4 w5 w6", "w7"), tokenizer=tmp_path)
    measure([case], tmp_path, replace(quick, repeat=3, foreign_load_bound=100.0))
    samples = records(tmp_path, SampleRecord)
    assert [s.input_tokens for s in samples] == [4, 2, 4]
    assert all(s.phases_ns["tokenise"] > 0 for s in samples)


def test_a_resumed_run_is_the_union(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    plan = [planned("a"), planned("b")]
    settings = replace(quick, foreign_load_bound=100.0)

    def stop_after(count: int) -> e.Observer:
        def look(event: e.Event) -> None:
            nonlocal count
            count -= isinstance(event, e.SampleTaken)
            if count == 0:
                raise KeyboardInterrupt

        return look

    with pytest.raises(KeyboardInterrupt):
        measure(plan, tmp_path, settings, stop_after(3))
    assert not psutil.Process().children()
    kept = (tmp_path / SAMPLES_NAME).read_bytes()
    (tmp_path / SAMPLES_NAME).write_bytes(kept + b'{"type":"sample","case":"cut o')
    with pytest.raises(KeyboardInterrupt):
        measure(plan, tmp_path, settings, stop_after(2))
    measured = measure(plan, tmp_path, settings)
    whole = (tmp_path / SAMPLES_NAME).read_bytes()
    assert whole.startswith(kept)
    samples = records(tmp_path, SampleRecord)
    assert len(samples) == 8
    assert len({(s.case, s.load, s.round) for s in samples}) == 8
    # Prompts are drawn by round: none is used twice for a case.
    assert len({(s.case, s.round) for s in samples}) == 8
    assert len(records(tmp_path, MemoryRecord)) == 2
    openings = [(r.case, r.load) for r in records(tmp_path, LoadRecord)]
    assert len(set(openings)) == len(openings)
    again = measure(plan, tmp_path, settings)
    assert (tmp_path / SAMPLES_NAME).read_bytes() == whole
    assert again.outcomes == measured.outcomes


def test_a_finished_run_is_left_alone(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    """Also one that ended for its budget: its outcome is in run.json."""
    plan = [planned("a")]
    outcome = Outcome(loads=0, converged={"ttft": False})
    write_run(
        tmp_path,
        RunRecord(
            run_id="r",
            slmbench_version="0",
            created="",
            finished="2026-01-01",
            seed=0,
            plan_digest="",
            cases=(),
            blocks=((plan[0].key,),),
            outcomes={plan[0].key: outcome},
        ),
    )
    measured = measure(plan, tmp_path, quick)
    assert measured.outcomes == {plan[0].key: outcome}
    assert not (tmp_path / SAMPLES_NAME).exists()


def test_samples_of_another_plan_are_refused(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    measure([planned("a")], tmp_path, replace(quick, repeat=1))
    before = (tmp_path / SAMPLES_NAME).read_bytes()
    with pytest.raises(BadInputError, match=r"holds case a\|standin.*not planned"):
        measure([planned("b")], tmp_path, quick)
    assert (tmp_path / SAMPLES_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat": None, "budget_s": 0.0}, "--budget 0"),
        ({"repeat": 0}, "--repeat 0"),
        ({"ttft_target": 0.0}, "--interval-target"),
    ],
)
def test_bad_settings_leave_nothing_behind(
    changes: dict, message: str, tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    with pytest.raises(BadInputError, match=message):
        measure([planned("a")], tmp_path, replace(quick, **changes))
    assert not list(tmp_path.iterdir())


def test_a_plan_must_have_cases_of_different_keys(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    with pytest.raises(BadInputError, match="no case"):
        measure([], tmp_path, quick)
    with pytest.raises(BadInputError, match="same key"):
        measure([planned("a"), planned("a")], tmp_path, quick)


@pytest.mark.slow
def test_the_arms_of_a_case_are_loaded_side_by_side(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    """One arm is sure at once, the other never is: the sure one goes on with it, a stranger does not."""
    sure, unsure = (planned("a", case={"arm": arm}) for arm in ("base", "new"))
    stranger = planned("b")
    settings = replace(quick, repeat=None, min_loads=2, max_loads=4, budget_s=60, foreign_load_bound=100.0)
    widths = {sure.key: 0.0, stranger.key: 0.0, unsure.key: 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CaseState,
            "judge",
            lambda self, _settings: self.intervals.update(ttft=(1.0, widths[self.key])),
        )
        measured = measure([sure, unsure, stranger], tmp_path, settings)
    assert {key: outcome.loads for key, outcome in measured.outcomes.items()} == {
        sure.key: 4,
        unsure.key: 4,
        stranger.key: 2,
    }
    rounds = {key: {s.round for s in records(tmp_path, SampleRecord) if s.case == key} for key in widths}
    assert rounds[sure.key] == rounds[unsure.key]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for another interpreter")
def test_each_arm_runs_under_its_own_interpreter(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    plan = []
    for arm in ("base", "new"):
        script = tmp_path / arm
        script.write_text(f'#!/bin/sh\necho ran >> {tmp_path / arm}.log\nexec {sys.executable} "$@"\n')
        script.chmod(0o755)
        plan.append(replace(planned("a", case={"arm": arm}), python=str(script)))
    folder = tmp_path / "run"
    folder.mkdir()
    measured = measure(plan, folder, replace(quick, repeat=2))
    assert [outcome.loads for outcome in measured.outcomes.values()] == [2, 2]
    # A survey and two loads each.
    assert [(tmp_path / f"{arm}.log").read_text().split() for arm in ("base", "new")] == [["ran"] * 3] * 2


def test_both_sides_of_a_pair_avoid_each_others_special_tokens(planned: MakePlan) -> None:
    one, other = planned("a"), planned("b")
    checkpoint = other.checkpoint.model_copy(update={"eos_token_ids": (7, 8), "decoder_start_token_id": 9})
    assert tokens_to_avoid([one, replace(other, checkpoint=checkpoint)]) == {1000: (0, 1, 7, 8, 9)}
