"""What happens to machines: disks fill, folders go, clocks jump, lids close. The stand-in does the measuring."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from slmbench.cli import run_main
from slmbench.records.schema import SAMPLES_NAME, read_run, write_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")

HERE = Path(__file__).parents[1]
#: Measures one case of the stand-in into a folder; limits the size of files first where a number is given.
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from standins import CHECKPOINT
from slmbench.case import Case, Workload
from slmbench.errors import SlmbenchError
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.scheduler import measure
case = Case(checkpoint="a", backend="standin", device="cpu", format="torch", exporter="none",
            weight_precision="fp32", compute_precision="fp32", workload=Workload(input_tokens=8, output_tokens=4))
plan = [PlannedCase(case=case, checkpoint=CHECKPOINT, artifact=Path({artifact!r}), artifact_id="standin")]
settings = MeasureSettings(repeat={repeat}, rounds=20, max_warmups=2, settle_s=0, foreign_load_bound=1000)
limit = {limit}
if limit:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    measure(plan, Path({folder!r}), settings)
except SlmbenchError as error:
    print(error)
    raise SystemExit(error.exit_code)
"""


def start(
    folder: Path, artifact: Path, plugin: Path, *, repeat: int = 40, limit: int | None = None
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = SCRIPT.format(
        tests=str(HERE), artifact=str(artifact), folder=str(folder), repeat=repeat,
        limit=limit,
    )  # fmt: skip
    path = {"PYTHONPATH": os.pathsep.join([str(plugin), str(HERE.parent)])}
    return subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, **path}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, process_group=0,
    )  # fmt: skip


def lines_of(folder: Path) -> list[bytes]:
    path = folder / SAMPLES_NAME
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def test_a_full_disk_keeps_every_earlier_sample(tmp_path: Path, artifact: Path, plugin: Path) -> None:
    process = start(tmp_path / "run", artifact, plugin, limit=6000)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 5, told
    assert "File too large; earlier samples are kept" in told
    assert "Traceback" not in told
    whole = [json.loads(line) for line in lines_of(tmp_path / "run") if line.endswith(b"\n")]
    assert sum(one["type"] == "sample" for one in whole) > 5

    # There is room again: the same run goes on to its end, and what was there is still there.
    kept = [line for line in lines_of(tmp_path / "run") if line.endswith(b"\n")]
    process = start(tmp_path / "run", artifact, plugin)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    after = lines_of(tmp_path / "run")
    assert after[: len(kept)] == kept
    assert sum(json.loads(line)["type"] == "sample" for line in after) == 40


def test_a_suspended_machine_goes_on(tmp_path: Path, artifact: Path, plugin: Path) -> None:
    process = start(tmp_path / "run", artifact, plugin)
    deadline = time.monotonic() + 30
    while len(lines_of(tmp_path / "run")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.send_signal(signal.SIGSTOP)
    before = len(lines_of(tmp_path / "run"))
    time.sleep(1)
    assert len(lines_of(tmp_path / "run")) == before
    for one in family:
        one.send_signal(signal.SIGCONT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    samples = [json.loads(line) for line in lines_of(tmp_path / "run")]
    assert sum(one["type"] == "sample" for one in samples) == 40
    assert not any(one["type"] == "failure" for one in samples)


def wait_for_lines(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(lines_of(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(lines_of(folder)) >= count


def test_a_results_folder_renamed_in_mid_run_has_every_sample(tmp_path: Path, artifact: Path, plugin: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    process = start(run, artifact, plugin, repeat=2000)
    wait_for_lines(run, 8)
    run.rename(moved)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 5, told
    assert f"{run / SAMPLES_NAME}: was removed or renamed while the run wrote it" in told
    assert "Traceback" not in told
    assert not run.exists(), "a folder was left where nobody looks for one"
    kept = lines_of(moved)
    assert all(json.loads(line) for line in kept)
    process = start(moved, artifact, plugin, repeat=40)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert lines_of(moved)[: len(kept)] == kept


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_results_folder_removed_in_mid_run_ends_it(how: str, tmp_path: Path, artifact: Path, plugin: Path) -> None:
    """Else it would measure for hours into a file that has no name, and call itself finished."""
    run = tmp_path / "run"
    process = start(run, artifact, plugin, repeat=2000)
    wait_for_lines(run, 8)
    run.rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    if how == "replaced":
        run.mkdir()
        (run / SAMPLES_NAME).write_bytes(b"")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 5, told
    assert "was removed or renamed while the run wrote it" in told
    assert "Traceback" not in told
    assert not lines_of(run)


def test_a_results_folder_that_cannot_be_made_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run_main(["run", "--model", "mu-tiny", "--out", str(tmp_path / "file" / "run")]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'run'}: cannot be made" in told
    assert len(told.splitlines()) == 1


def test_a_report_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from synthetic import make_run

    make_run().write(tmp_path / "run")
    assert run_main(["compare", str(tmp_path / "run"), str(tmp_path / "run"), "--out", str(tmp_path / "no" / "x")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_clock_that_was_set_back_changes_no_figure(tmp_path: Path) -> None:
    from synthetic import make_run

    from slmbench.report.run_table import run_table

    made = make_run()
    steady = run_table(read_run(made.write(tmp_path / "steady")))
    made.lines[5:] = [
        line.model_copy(update={"started": "1999-01-01T00:00:00+00:00"}) if hasattr(line, "started") else line
        for line in made.lines[5:]
    ]
    jumped = read_run(made.write(tmp_path / "jumped"))
    write_run(jumped.folder, jumped.record.model_copy(update={"finished": "1998-01-01T00:00:00+00:00"}))
    assert run_table(read_run(tmp_path / "jumped")).equals(steady)
