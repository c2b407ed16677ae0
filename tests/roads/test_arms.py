"""Two Python environments in one run, as a user has them: from `slmbench run --arm` to table, report and verdict."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from environments import DYING, FAST, SLOW, bare, environment, install_speaker, keep_brake_limits, site_of
from rotation import takes_turns

WORK = ("--input-tokens", "16", "--output-tokens", "8", "--repeat", "3")
#: On a busy machine three loads are told apart only with a high chance of a false alarm: the brake is 50 ms a step.
LOOSE = ("--metric", "tpot", "--gates", "gates.yaml")
Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    keep_brake_limits(shared_cache)
    folder = tmp_path_factory.mktemp("arms")
    (folder / "gates.yaml").write_text("alpha: 20%\n")
    return folder


@pytest.fixture(scope="module")
def old(place: Path) -> Path:
    return environment(place / "venv-old", FAST)


@pytest.fixture(scope="module")
def new(place: Path) -> Path:
    return environment(place / "venv-new", SLOW)


@pytest.fixture(scope="module")
def call(old: Path, place: Path) -> Call:
    """Run slmbench with the old environment's interpreter, from a folder of the user's."""

    def slmbench(*arguments: str) -> Done:
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            [old, "-m", "slmbench", *arguments], cwd=place, env=environment, capture_output=True, text=True
        )

    return slmbench


@pytest.fixture(scope="module")
def measured(call: Call, old: Path, new: Path, place: Path) -> Done:
    pair = ("--pair", "mu-tiny,dec-tiny", "--backend", "brake")
    return call("run", *pair, *WORK, "--arm", f"old={old}", "--arm", f"new={new}", "--out", "run")


def only_line(done: Done, code: int) -> str:
    """Return the one line of an error; there is no other, and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("slmbench: error: ")]
    assert done.stderr.splitlines()[-1] == line
    return line


@pytest.mark.slow
def test_a_run_of_two_environments_shows_both(measured: Done, place: Path) -> None:
    assert measured.returncode == 0, measured.stdout + measured.stderr
    assert measured.stderr.splitlines()[-1] == "everything is in run"
    record = json.loads((place / "run" / "run.json").read_text(encoding="utf-8"))
    assert [record["versions"][arm]["slmbench-brake"] for arm in ("old", "new")] == [FAST, SLOW]
    with (place / "run" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["arm"], row["model"]): float(row["tpot_s"]) for row in csv.DictReader(file)}
    assert sorted(rows) == [(arm, model) for arm in ("new", "old") for model in ("dec-tiny", "mu-tiny")]
    assert all(rows["new", model] > rows["old", model] + 0.04 for model in ("dec-tiny", "mu-tiny"))
    # The pair's sentence is there once an arm, on screen as in the files.
    report = (place / "run" / "report.html").read_text(encoding="utf-8")
    for text in (measured.stdout, (place / "run" / "table.md").read_text(encoding="utf-8"), report):
        sentences = re.findall(r"mu-tiny \(\d[^()]*\) reaches its first token .*?, arm (\w+)", " ".join(text.split()))
        assert {"old", "new"} <= set(sentences)
    assert report.count('<details id="case-') == 4
    assert {"Machine of arm old", "Machine of arm new"} <= set(re.findall(r"Machine of arm \w+", report))
    for label in ("old: mu-tiny", "new: mu-tiny", "old: dec-tiny", "new: dec-tiny"):
        assert label in report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "head", "code", "says"),
    [("old", "new", 1, "REGRESSED"), ("new", "old", 0, "passed"), ("old", "other", 2, "no arm 'other'")],
)
def test_the_arms_are_judged(
    measured: Done, call: Call, base: str, head: str, code: int, says: str, tmp_path: Path
) -> None:
    junit = ("--junit", f"{tmp_path}/junit.xml")
    done = call("check", "--baseline", f"run@{base}", f"run@{head}", *LOOSE, *junit)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in (only_line(done, 2) if code == 2 else done.stdout.splitlines()[-1])
    if code != 2:
        assert (tmp_path / "junit.xml").read_text().count("<failure") == 2 * code


@pytest.mark.slow
def test_the_arms_are_compared(measured: Done, call: Call, tmp_path: Path) -> None:
    for sides in (["run"], ["run", "--arms", "old,new"], ["run@old", "run@new"]):
        done = call("compare", *sides, *LOOSE, "--format", "csv")
        assert done.returncode == 0, done.stderr
        assert {row["verdict"] for row in csv.DictReader(done.stdout.splitlines())} == {"regressed"}
    assert call("compare", "run", "--format", "html", "--out", str(tmp_path / "c.html")).returncode == 0
    assert "slmbench-brake" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert call("table", "run@new", "--format", "bencher").returncode == 0
    assert "has arms" in only_line(call("table", "run", "--format", "bencher"), 2)


def begin(call: Call, old: Path, new: Path | str, out: Path) -> Done:
    options = ("--model", "dec-tiny", "--backend", "brake", *WORK, "--out", str(out))
    return call("run", *options, "--arm", f"old={old}", "--arm", f"new={new}")


def test_an_environment_without_slmbench_is_one_line(call: Call, old: Path, place: Path, tmp_path: Path) -> None:
    python = bare(place / "venv-bare")
    line = only_line(begin(call, old, python, tmp_path / "out"), 2)
    assert line.startswith(f"slmbench: error: --arm new: {python}: no slmbench there; install it: {python} -m pip")
    assert "no such interpreter" in only_line(begin(call, old, "venv-nowhere/bin/python", tmp_path / "out"), 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to processes on Linux")
def test_arms_on_other_cores_are_refused_before_they_are_measured(call: Call, old: Path, tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2 or shutil.which("taskset") is None:
        pytest.skip("needs two cores and taskset")
    pinned = tmp_path / "python"
    pinned.write_text(f'#!/bin/sh\nexec taskset -c {min(cores)} {old} "$@"\n')
    pinned.chmod(0o755)
    done = begin(call, old, pinned, tmp_path / "out")
    line = only_line(done, 3)
    assert line.startswith("slmbench: error: --arm old and --arm new see this machine differently (")
    assert f"logical_cores: {len(cores)} / 1" in line
    assert "start both interpreters alike, on the same cores" in line
    assert "by-machine" not in line
    assert "exporting" not in done.stderr
    assert not (tmp_path / "out" / "samples.jsonl").exists()


@pytest.mark.parametrize("protocol", [1, 999])
def test_another_slmbench_is_one_line(call: Call, old: Path, tmp_path: Path, protocol: int) -> None:
    python = bare(tmp_path / "venv")
    install_speaker(python, protocol, "0.1.0")
    line = only_line(begin(call, old, python, tmp_path / "out"), 2)
    assert re.search(rf"slmbench 0\.1\.0 \(worker protocol {protocol}\) there, .* here; install the same version", line)


def test_an_environment_without_the_engine_is_one_line(call: Call, old: Path, tmp_path: Path) -> None:
    """slmbench and what it imports are there, the engine's package is not."""
    python = environment(tmp_path / "venv", FAST)
    shutil.rmtree(site_of(python) / f"slmbench_brake-{FAST}.dist-info")
    line = only_line(begin(call, old, python, tmp_path / "out"), 5)
    assert f"--arm new: {python} (Python 3." in line
    assert "unknown backend 'brake'" in line


def other_python(version: str) -> str:
    """Return an interpreter of that version."""
    found = [shutil.which(f"python{version}"), *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    working = [one for one in found if one and subprocess.run([one, "-c", ""], capture_output=True).returncode == 0]
    if not working or sys.version_info[:2] == tuple(map(int, version.split("."))):
        pytest.skip(f"no other Python {version} on this machine")
    return working[0]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python_without_engines_is_one_line(call: Call, old: Path, tmp_path: Path, version: str) -> None:
    python = bare(tmp_path / "venv", other_python(version))
    assert f"--arm new: {python}: no slmbench there" in only_line(begin(call, old, python, tmp_path / "out"), 2)
    # slmbench itself is there, without what it needs.
    (site_of(python) / "slmbench.pth").write_text(f"{Path(__file__).parents[2]}\n")
    line = only_line(begin(call, old, python, tmp_path / "out"), 5)
    assert f"--arm new: {python} does not start a worker: ModuleNotFoundError: No module named" in line


@pytest.mark.slow
def test_a_python_that_is_too_old_is_one_line(call: Call, old: Path, tmp_path: Path) -> None:
    python = bare(tmp_path / "venv", other_python("3.10"))
    assert "older than Python 3.11" in only_line(begin(call, old, python, tmp_path / "out"), 2)


@takes_turns(0, 2)
@pytest.mark.slow
def test_an_arm_whose_worker_is_killed_fails_and_the_other_is_measured(call: Call, old: Path, tmp_path: Path) -> None:
    done = begin(call, old, environment(tmp_path / "venv", DYING), tmp_path / "out")
    assert done.returncode == 5
    assert "Traceback" not in done.stdout + done.stderr
    assert "killed: the worker was killed (SIGKILL)" in " ".join(done.stdout.split())
    with (tmp_path / "out" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert float(rows["old"]["tpot_s"]) > 0
    assert rows["new"]["failure"].startswith("killed")
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "(failed: killed)" in report
    assert "old: dec-tiny" in report
    done = call("check", "--baseline", f"{tmp_path}/out@old", f"{tmp_path}/out@new", "--junit", f"{tmp_path}/j.xml")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "FAILED" in done.stdout.splitlines()[-1]
    assert "SIGKILL" in (tmp_path / "j.xml").read_text()
