"""Large runs: 200,000 samples of 2,000 cases are read, resumed and shown in seconds, in memory that stays flat."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from synthetic import Speed, make_run

from slmbench.columns import read_columns
from slmbench.records import SAMPLES_NAME, write_run
from slmbench.report.table import run_table
from slmbench.worker.planned import PlannedCase
from slmbench.worker.resume import restore

CASES = 2_000
SAMPLES_PER_LOAD = 50
LOADS = 2
#: Seconds that a person waits for gladly; a slow machine of CI gets as much again.
READ_S = 60.0
#: What 200,000 samples may add to the host's memory.
MOST_BYTES = 50_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2,000 cases and 200,000 samples; the samples of one case stand for those of all."""
    folder = tmp_path_factory.mktemp("large")
    speeds = [Speed(input_tokens=16 + i, output_tokens=4, loads=1, rounds=1) for i in range(CASES)]
    write_run(folder, make_run(speeds).record)
    one = make_run([Speed(input_tokens=16, output_tokens=4, loads=LOADS, rounds=SAMPLES_PER_LOAD)])
    template = "".join(line.model_dump_json() + "\n" for line in one.lines)
    first = speeds[0].case.key
    with (folder / SAMPLES_NAME).open("w") as file:
        for speed in speeds:
            own = template.replace(first, speed.case.key)
            file.write(own.replace('"input_tokens":16', f'"input_tokens":{speed.input_tokens}'))
    return folder


def test_the_table_comes_in_seconds(large: Path) -> None:
    begin = time.monotonic()
    columns = read_columns(large, keep_tokens=False)
    read_s = time.monotonic() - begin
    frame = run_table(columns)
    table_s = time.monotonic() - begin - read_s
    assert columns.sample_count == CASES * LOADS * SAMPLES_PER_LOAD
    assert len(frame) == CASES
    assert read_s + table_s < READ_S, f"read {read_s:.1f} s, table {table_s:.1f} s"


def test_a_days_samples_are_resumed_in_seconds(large: Path) -> None:
    record = read_columns(large, keep_tokens=False).record
    plan = [PlannedCase(i.case, i.checkpoint, large, i.artifact_id or "") for i in record.cases]
    memory, begin = psutil.Process().memory_info().rss, time.monotonic()
    states, next_round = restore(plan, large)
    spent, grown = time.monotonic() - begin, psutil.Process().memory_info().rss - memory
    assert next_round == LOADS * SAMPLES_PER_LOAD
    assert sum(len(state.loads) for state in states) == CASES * LOADS
    assert spent < READ_S
    assert grown < MOST_BYTES, f"{grown / 1e6:.0f} MB more"
