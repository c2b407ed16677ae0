"""Large runs: 200,000 samples of 2,000 cases are read, resumed and shown in seconds, in memory that stays flat."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from synthetic import Speed, make_run

from slmbench.case import Workload
from slmbench.cli import run_main
from slmbench.records.sample_arrays import read_columns
from slmbench.records.schema import SAMPLES_NAME, read_run_record, write_run
from slmbench.report.run_table import run_table
from slmbench.report.write import write_reports
from slmbench.running import events as e
from slmbench.running.case_state import restore
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase

CASES = 2_000
SAMPLES_PER_LOAD = 50
LOADS = 2
#: Seconds of processor time: what a person waits for gladly, and a slow machine of CI gets as much again.
READ_S = 60.0
#: What 200,000 samples, or 2,000 cases, may add to the host's memory.
MOST_BYTES = 50_000_000
#: A page that browsers still open at once.
MOST_PAGE_BYTES = 12_000_000


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
    begin = time.process_time()
    columns = read_columns(large, keep_tokens=False)
    read_s = time.process_time() - begin
    frame = run_table(columns)
    table_s = time.process_time() - begin - read_s
    assert columns.sample_count == CASES * LOADS * SAMPLES_PER_LOAD
    assert len(frame) == CASES
    assert read_s + table_s < READ_S, f"read {read_s:.1f} s, table {table_s:.1f} s"


def test_a_days_samples_are_resumed_in_seconds(large: Path) -> None:
    record = read_columns(large, keep_tokens=False).record
    plan = [PlannedCase(i.case, i.checkpoint, large, i.artifact_id or "") for i in record.cases]
    memory, begin = psutil.Process().memory_info().rss, time.process_time()
    states, next_round, _ = restore(plan, large)
    spent, grown = time.process_time() - begin, psutil.Process().memory_info().rss - memory
    assert next_round == LOADS * SAMPLES_PER_LOAD
    assert sum(len(state.loads) for state in states) == CASES * LOADS
    assert spent < READ_S
    assert grown < MOST_BYTES, f"{grown / 1e6:.0f} MB more"


def test_a_report_of_thousands_of_cases_comes_in_seconds_and_can_be_opened(large: Path, tmp_path: Path) -> None:
    columns, begin = read_columns(large), time.process_time()
    write_reports(columns, tmp_path)
    assert time.process_time() - begin < READ_S
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page) < MOST_PAGE_BYTES
    assert f"of {CASES} cases are drawn" in page
    assert page.count("<details id=") == CASES
    specs = json.loads(page.partition('id="charts">')[2].partition("</script>")[0])
    for spec in specs.values():
        assert sum(map(len, spec.get("datasets", {}).values())) <= 21_000


def test_thousands_of_cases_are_compared_in_seconds(large: Path, tmp_path: Path) -> None:
    begin = time.process_time()
    run_main(["compare", str(large), str(large), "--format", "html", "--out", str(tmp_path / "page.html")])
    assert time.process_time() - begin < READ_S
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page) < MOST_PAGE_BYTES
    assert f"of {2 * CASES} judgements" in page


def test_a_large_run_that_lacks_nothing_is_ended_in_seconds(large: Path, tmp_path: Path) -> None:
    shutil.copyfile(large / SAMPLES_NAME, tmp_path / SAMPLES_NAME)
    record = read_run_record(large / "run.json")
    write_run(tmp_path, record.model_copy(update={"finished": None}))
    plan = [PlannedCase(i.case, i.checkpoint, large, i.artifact_id or "") for i in record.cases]
    opened: list[e.Event] = []
    begin = time.process_time()
    measured = measure(
        plan,
        tmp_path,
        MeasureSettings(repeat=LOADS * SAMPLES_PER_LOAD),
        lambda event: opened.append(event) if isinstance(event, e.Opening) else None,
    )
    assert time.process_time() - begin < READ_S
    assert not opened
    assert len(measured.outcomes) == CASES


def test_a_case_more_leaves_nothing_in_the_host(tmp_path: Path, planned: Callable[..., PlannedCase]) -> None:
    """What stays of a case must be no more than its records: no file, no thread, no text of its worker."""
    count, host = 24, psutil.Process()
    plan = [planned(f"m{n}", workload=Workload(input_tokens=8, output_tokens=4), ttft_ms=0.2) for n in range(count)]
    settings = MeasureSettings(repeat=1, max_warmups=2, settle_s=0)
    for name in ("first", "run"):
        (tmp_path / name).mkdir()
    # What is loaded and kept once is no case's.
    measure(plan[:1], tmp_path / "first", settings)
    threads = host.num_threads()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        measured = measure(plan, tmp_path / "run", settings)
        grown = tracemalloc.get_traced_memory()[0] - before
        children = host.children(recursive=True)
    finally:
        tracemalloc.stop()
    assert all(outcome.loads == 1 for outcome in measured.outcomes.values())
    assert grown / count < MOST_BYTES / CASES, f"{grown / count / 1e3:.0f} kB a case"
    assert host.num_threads() <= threads + 1
    assert not children
