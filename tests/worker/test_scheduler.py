"""A run from plan to records: loads, rounds, failures, resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slmbench.records import SAMPLES_NAME, LoadRecord, MemoryRecord, SampleRecord, read_samples
from slmbench.worker.planned import MeasureSettings, PlannedCase
from slmbench.worker.scheduler import measure

MakePlan = Callable[..., PlannedCase]


def records(folder: Path, kind: type) -> list:
    return [record for record in read_samples(folder / SAMPLES_NAME, []) if isinstance(record, kind)]


def test_every_case_is_surveyed_loaded_and_sampled(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    measured = measure([planned("a"), planned("b", ttft_ms=5)], tmp_path, quick)
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
    assert len(records(tmp_path, MemoryRecord)) == 2
    assert len(measured.blocks) == 1
    slow = [s.token_ns[0] for s in samples if s.case.startswith("b|")]
    assert min(slow) >= 5e6
    assert all(len(s.token_ns) == 4 and s.phases_ns == {"first_step": s.phases_ns["first_step"]} for s in samples)
