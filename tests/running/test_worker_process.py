"""The life of a worker: how it starts, hears, stands still, and never outlives its host."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from slmbench import __version__
from slmbench.errors import BadInputError
from slmbench.running.settings import PlannedCase
from slmbench.running.worker_process import Worker, WorkerError, describe, explain_exit, log_path, log_tail
from slmbench.system.extras import install_itself
from slmbench.worker import protocol as p

MakePlan = Callable[..., PlannedCase]


def open_request(planned: PlannedCase) -> p.Open:
    return p.Open(case=planned.case, artifact=planned.artifact, options=planned.options, seed=0)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path / "w.log") as worker:
        yield worker


def test_phases_are_told_apart(worker: Worker, planned: MakePlan) -> None:
    opened = worker.ask(open_request(planned(ttft_ms=30)), p.Opened, 20)
    assert (opened.load_ns, opened.compile_ns) == (5, 7)
    assert opened.first_inference_ns >= 30e6
    warm = worker.ask(p.WarmUp(workload=planned(ttft_ms=30).case.workload, load=0, most=4), p.Warm, 20)
    assert 1 <= warm.generations <= 4
    sample = worker.ask(p.TakeSample(round=0), p.Sampled, 20)
    assert sample.token_ns[0] >= 30e6
    assert sample.token_ns[-1] >= 33e6


def test_a_worker_survives_a_request_it_cannot_fulfil(worker: Worker, planned: MakePlan) -> None:
    with pytest.raises(WorkerError, match="no session is open"):
        worker.ask(p.TakeSample(round=0), p.Sampled, 20)
    worker.ask(open_request(planned()), p.Opened, 20)


def test_a_worker_that_gives_no_answer_is_killed(worker: Worker, planned: MakePlan) -> None:
    with pytest.raises(WorkerError, match="timeout: no answer to open in time"):
        worker.ask(open_request(planned(fault="hang")), p.Opened, 0.5)
    assert not worker.alive


def test_a_suspended_worker_stands_still_and_answers_when_asked(worker: Worker, planned: MakePlan) -> None:
    worker.ask(open_request(planned()), p.Opened, 20)
    worker.suspend()
    assert psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
    assert len(worker.ask(p.TakeSample(round=0), p.Sampled, 20).token_ns) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's way to choose whom to end")
def test_where_memory_runs_out_a_worker_goes_first(worker: Worker) -> None:
    """A graph may ask for any amount: neither the host nor a person's programs are ended for it."""
    worker.greet()
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "1000"
    assert Path("/proc/self/oom_score_adj").read_text().strip() != "1000"


def test_leaving_by_an_error_ends_a_suspended_worker(tmp_path: Path) -> None:
    def interrupted(worker: Worker) -> None:
        with worker:
            worker.suspend()
            raise KeyboardInterrupt

    worker = Worker(tmp_path / "w.log")
    with pytest.raises(KeyboardInterrupt):
        interrupted(worker)
    assert not psutil.pid_exists(worker.pid)


def test_chatter_before_the_first_line_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site customisation that prints to stdout, as some environments have."""
    (tmp_path / "sitecustomize.py").write_text("print('welcome to this environment')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker(tmp_path / "w.log") as worker:
        assert (
            "slmbench" in worker.ask(p.Describe(distributions=("slmbench",), machine=False), p.Described, 20).versions
        )


def test_a_file_in_the_current_folder_shadows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    with Worker(tmp_path / "w.log") as worker:
        assert worker.alive


@pytest.mark.skipif(sys.platform == "win32", reason="a variable of POSIX")
def test_a_library_that_sets_a_variable_in_this_process_changes_no_worker(tmp_path: Path) -> None:
    """As ggml does: Python's own view of the environment does not show it, and it would be of another machine."""
    ctypes.CDLL(None).setenv(b"KMP_BLOCKTIME", b"200", 1)
    try:
        assert "KMP_BLOCKTIME" not in describe(None, [], tmp_path / "w.log").machine["software"]["environment"]
    finally:
        ctypes.CDLL(None).unsetenv(b"KMP_BLOCKTIME")


def test_an_interpreter_without_slmbench_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = str(tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    with pytest.raises(BadInputError) as caught:
        describe(python, [], tmp_path / "w.log")
    text = str(caught.value)
    command = install_itself(number=__version__, pip=f"{python} -m pip")
    assert text == f"{python}: no slmbench there; install it: {command}"


def test_a_path_that_is_no_interpreter_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nothing-here: cannot be started: No such file"):
        Worker(tmp_path / "w.log", python=str(tmp_path / "nothing-here"))


def test_describe_tells_versions_and_machine(tmp_path: Path) -> None:
    found = describe(None, ["pydantic", "no-such-distribution"], tmp_path / "w.log")
    assert found.versions["slmbench"] == __version__
    assert set(found.versions) == {"slmbench", "numpy", "pydantic"}
    assert found.machine["hardware"]["logical_cores"] >= 1


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [(-9, "killed", "ran out of memory"), (-11, "crashed", "SIGSEGV"), (-8, "crashed", "SIGFPE"), (3, "crashed", "3")],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")
def test_exit_codes_are_explained(code: int, reason: str, message: str) -> None:
    found = explain_exit(code)
    assert found[0] == reason
    assert message in found[1]


def test_log_names_differ_where_keys_differ(tmp_path: Path) -> None:
    names = {log_path(tmp_path, key).name for key in ("a|b", "a/b", "a b", "a" * 300, "a" * 301, "../a", "CON")}
    assert len(names) == 7
    assert all(len(name) < 128 for name in names)
    assert all(log_path(tmp_path, key).parent == tmp_path / "logs" for key in ("../../etc/passwd", "/a"))


def test_a_log_tail_cannot_steer_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"one\n" * 50 + b"\x1b]0;title\x07two \xff\n")
    tail = log_tail(tmp_path / "x.log", 3)
    assert tail.splitlines()[:2] == ["one", "one"]
    assert "\x1b" not in tail
    assert log_tail(tmp_path / "absent.log") == ""


HOST = """
import sys, time
from pathlib import Path
from slmbench.running.worker_process import Worker
workers = [Worker(Path(sys.argv[1]) / f"{n}.log") for n in range(2)]
workers[0].suspend()
print(*(w.pid for w in workers), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL if os.name != "nt" else 0, signal.SIGTERM])
def test_no_worker_outlives_its_host(number: int, tmp_path: Path) -> None:
    """Neither an idle worker nor a suspended one."""
    host = subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert host.stdout
    pids = [int(text) for text in host.stdout.readline().split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    host.send_signal(number)
    host.wait()
    host.stdout.close()
    _, left = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


INTERRUPTED = """
import signal, sys, pickle
# Whoever runs the tests in the background has it ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from slmbench.running.scheduler import measure
plan, settings = pickle.loads(Path(sys.argv[2]).read_bytes())
def look(event):
    print(type(event).__name__, flush=True)
try:
    measure(plan, Path(sys.argv[1]), settings, look)
except KeyboardInterrupt:
    import psutil
    print("left", len(psutil.Process().children()), flush=True)
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "moment",
    ["Opening", pytest.param("SampleTaken", marks=pytest.mark.slow), pytest.param("Judged", marks=pytest.mark.slow)],
)
def test_ctrl_c_ends_every_worker(moment: str, tmp_path: Path, planned: MakePlan, quick: object) -> None:
    import pickle

    given = tmp_path / "given"
    given.write_bytes(pickle.dumps(([planned("a", step_ms=100), planned("b", step_ms=100)], quick)))
    host = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(given)], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout
    while host.stdout.readline().strip() != moment:
        assert host.poll() is None
    time.sleep(0.15)
    host.send_signal(signal.SIGINT)
    rest = host.stdout.read()
    assert host.wait(20) == 130
    assert rest.rstrip().endswith("left 0")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX exit codes")
def test_last_words_are_the_engines_not_pythons_report() -> None:
    dump = 'Fatal Python error: Illegal instruction\n\nThread 0x1 (latest first):\n  File "x.py", line 3 in f\n'
    assert explain_exit(-4, reported=f"loading\n{dump}\nExtension modules: a (total: 1)\n")[1].endswith("log: loading")
    assert explain_exit(-4, reported=dump)[1].endswith('log: File "x.py", line 3 in f')
    assert "log" not in explain_exit(-4)[1]
