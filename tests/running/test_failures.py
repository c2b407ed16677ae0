"""A case that fails is its own result, with its reason and its log; every other case goes on."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from slmbench.records.schema import SAMPLES_NAME, FailureRecord, MemoryRecord, SampleRecord, read_samples
from slmbench.running.scheduler import measure
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import WorkerError, log_path

MakePlan = Callable[..., PlannedCase]

#: Name → the stand-in's options, the expected reason and a part of the message.
FAULTS: dict[str, tuple[dict, str, str]] = {
    "opening": ({"fault": "segfault", "fault_at": -1}, "crashed", "SIGSEGV"),
    "segfault": ({"fault": "segfault", "fault_at": 2}, "crashed", "SIGSEGV"),
    "sigfpe": ({"fault": "sigfpe"}, "crashed", "SIGFPE"),
    "sigkill": ({"fault": "sigkill", "fault_at": 1}, "killed", "ran out of memory"),
    "exit": ({"fault": "exit"}, "crashed", "exit code 3"),
    "raise": ({"fault": "raise"}, "error", "RuntimeError: the engine gave up"),
    "cannot": ({"fault": "cannot", "fault_at": -1}, "cannot run", "no driver; install one"),
    "memory": ({"fault": "memory"}, "error", "out of memory"),
    "hang": ({"fault": "hang", "fault_at": 1}, "timeout", "no answer to prove in time"),
    "eos": ({"fault": "eos"}, "short generation", "end of sequence at token 1"),
    "tokens": ({"wrong_tokens": 1}, "wrong tokens", "12 of 12 golden tokens differ"),
    "device": ({"executed_on": "htp-emulator"}, "wrong device", "asked for cpu, executed on htp-emulator"),
    "precision": ({"computes_in": "bf16"}, "wrong precision", "asked to compute in fp32, the engine computes in bf16"),
    "option": ({"no_such_option": 1}, "cannot run", "option no_such_option of standin: Extra"),
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the faults are POSIX signals"),
]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return {}


def run_all(folder: Path, planned: MakePlan, settings: MeasureSettings) -> list:
    plan = [planned("good"), *(planned(name, **options) for name, (options, _, _) in FAULTS.items()), planned("too")]
    measure(plan, folder, replace(settings, open_timeout_s=6, repeat=1))
    return list(read_samples(folder / SAMPLES_NAME, []))


@pytest.fixture
def outcome(failed: dict, tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> dict:
    """One run with every fault in it, made once."""
    if not failed:
        failed.update(folder=tmp_path, records=run_all(tmp_path, planned, quick))
    return failed


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, outcome: dict) -> None:
    _, reason, message = FAULTS[name]
    (record,) = [r for r in outcome["records"] if isinstance(r, FailureRecord) and r.case.startswith(f"{name}|")]
    assert record.reason == reason
    assert message in record.message
    assert "\n" not in record.message
    if name not in ("option",):
        assert "chatter on fd 1" in record.log_tail
    assert not [r for r in outcome["records"] if r.case == record.case and isinstance(r, SampleRecord)]


def test_every_other_case_went_on(outcome: dict) -> None:
    sampled = {r.case.split("|")[0] for r in outcome["records"] if isinstance(r, SampleRecord)}
    assert sampled == {"good", "too"}


def test_a_crash_leaves_its_stack_in_the_log(outcome: dict) -> None:
    (record,) = [r for r in outcome["records"] if isinstance(r, FailureRecord) and r.case.startswith("opening|")]
    assert "Segmentation fault" in record.log_tail
    assert "slmbench_standin.py" in record.log_tail


def test_nothing_is_left_running(outcome: dict) -> None:
    assert not workers()


def workers() -> list[psutil.Process]:
    return [c for c in psutil.Process().children(recursive=True) if c.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_at_any_moment(seed: int, tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    """Whatever the victim was doing, the other case has all its samples and the file is whole."""
    source = random.Random(seed)
    victim: list[int] = []

    def strike() -> None:
        time.sleep(source.uniform(0.2, 3.0))
        alive = workers()
        if alive:
            process = source.choice(alive)
            victim.append(process.pid)
            process.kill()

    thread = threading.Thread(target=strike)
    thread.start()
    measure([planned("a", step_ms=20), planned("b", step_ms=20)], tmp_path, quick)
    thread.join()
    records = list(read_samples(tmp_path / SAMPLES_NAME, []))
    failures = [r for r in records if isinstance(r, FailureRecord)]
    # The stroke may fall on the closing of a worker whose samples are all there: then nothing is lost.
    assert [r.reason for r in failures] in ([], ["killed"])
    lost = {r.case for r in failures}
    for name in ("a", "b"):
        case = planned(name).key
        taken = [r for r in records if isinstance(r, SampleRecord) and r.case == case and "retaken" not in r.flags]
        assert case in lost or len(taken) == 4
    assert len(lost) <= 1


def test_a_fault_in_a_later_load_keeps_the_earlier_samples(
    tmp_path: Path, planned: MakePlan, quick: MeasureSettings
) -> None:
    # Generations of a sampled load: the first inference, one golden prompt, two warm-ups, one sample.
    plan = [planned("a", fault="raise", fault_at=5), planned("b")]
    measure(plan, tmp_path, replace(quick, foreign_load_bound=100.0, repeat=10))
    records = list(read_samples(tmp_path / SAMPLES_NAME, []))
    (failure,) = [r for r in records if isinstance(r, FailureRecord)]
    assert failure.load == 1
    assert len([r for r in records if isinstance(r, SampleRecord) and r.case == plan[0].key]) == 1
    assert len([r for r in records if isinstance(r, SampleRecord) and r.case == plan[1].key]) == 10


def test_chatter_goes_to_the_cases_log(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    case = planned("mu:330m/x y", case={"options": (("a", "ü<>"),)})
    measure([case], tmp_path, replace(quick, repeat=1))
    log = log_path(tmp_path, case.key)
    assert log.name.isascii()
    assert not set(log.name) & set('<>:"/\\|?* ')
    text = log.read_text()
    for line in ("chatter on fd 1", "chatter on fd 2", "chatter of Python", "closed"):
        assert text.count(line) == 2, line


def test_peak_memory_is_the_workers_own(tmp_path: Path, planned: MakePlan, quick: MeasureSettings) -> None:
    measure([planned("slim"), planned("fat", memory_mib=200)], tmp_path, replace(quick, repeat=1))
    slim, fat = (r for r in read_samples(tmp_path / SAMPLES_NAME, []) if isinstance(r, MemoryRecord))
    extra = 200 << 20
    assert extra * 0.95 < fat.peak_rss_bytes - slim.peak_rss_bytes < extra * 1.1
    assert slim.peak_uss_bytes
    assert fat.peak_uss_bytes
    assert extra * 0.95 < fat.peak_uss_bytes - slim.peak_uss_bytes < extra * 1.1


def test_errors_of_workers_are_one_line() -> None:
    assert str(WorkerError("crashed", "the worker died of SIGSEGV")) == "crashed: the worker died of SIGSEGV"
