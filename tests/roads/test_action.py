"""action.yml as GitHub runs it: both modes, on a repository with a project in it, and every way that it can fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from environments import DYING, FAST, SLOW, bare, environment, keep_brake_limits, write_project, write_python
from github_runner import Job, StepFailedError, evaluated, run_action, run_steps
from rotation import takes_turns

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action.yml"
#: Several lines, a comment and quotes: as people write it into a workflow.
WORK = """
--model mu-tiny --backend 'brake'   # the engine under test
--input-tokens 16 \\
--output-tokens 8
--repeat 3
"""
MakeJob = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path, shared_cache: Path) -> Job:
    keep_brake_limits(shared_cache)
    workspace, temp = tmp_path / "workspace", tmp_path / "temp"
    workspace.mkdir()
    temp.mkdir()
    return Job(workspace, temp, {**os.environ, "COLUMNS": "160"})


def act(job: Job, **inputs: str) -> str:
    """Run the action; return its exit code as it says it, and "failed" where the step did."""
    given = {"python": sys.executable, **{name.replace("_", "-"): value for name, value in inputs.items()}}
    try:
        return run_action(ACTION, given, job)["exit-code"]
    except StepFailedError:
        return f"failed {job.steps['action']['outputs']['exit-code']}"


def junit(job: Job) -> ElementTree.Element:
    return ElementTree.parse(job.workspace / job.steps["action"]["outputs"]["junit"]).getroot()


def said_everywhere(job: Job) -> str:
    """Return the reason that JUnit, summary and annotation give; each has it, and no traceback is on the console."""
    assert "Traceback" not in job.console
    (error,) = junit(job).iterfind("testsuite/testcase/error")
    reason = error.get("message", "")
    ((kind, title, message),) = job.annotations
    assert (kind, message) == ("error", reason)
    assert title.startswith("slmbench: ")
    assert reason in unescape(re.sub(r"\\(.)", r"\1", job.summary))
    return reason


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.out == 'A b' && !failure()", True),
        ("always() || failure()", True),
        ("inputs.none || inputs.out", "a B"),
        ("(steps.one.outputs.code != 0) && 'it''s'", "it's"),
        ("github.event.pull_request.base.sha", ""),
    ],
)
def test_the_runner_works_expressions_out(job: Job, expression: str, value: object) -> None:
    job.inputs, job.steps = {"out": "a B"}, {"one": {"outputs": {"code": "5"}}}
    assert evaluated(expression, job) == value


def test_every_word_of_the_input_run_reaches_slmbench(job: Job, tmp_path: Path) -> None:
    recorder = tmp_path / "python"
    told = tmp_path / "told"
    records = f'if [ "$4" = run ]; then printf "%s\\0" "${{@:5}}" > {told}; exit 2; fi'
    recorder.write_text(f'#!/bin/bash\n{records}\nexec {sys.executable} "$@"\n')
    recorder.chmod(0o755)
    text = "--suite smoke\n  --model 'a b'  # $(touch harm)\n--option \"k=`touch harm`\" \\\n --seed 3\n\n"
    assert act(job, python=str(recorder), baseline="b.json", run=text) == "failed 2"
    words = told.read_text().rstrip("\0").split("\0")
    assert words == [
        *("--suite", "smoke", "--model", "a b", "--option", "k=`touch harm`", "--seed", "3", "--out", "slmbench-run")
    ]
    assert not (job.workspace / "harm").exists()
    said_everywhere(job)


@pytest.mark.parametrize("given", [{}, {"gate": "7%"}], ids=["none", "given"])
def test_the_gate_is_checks_own_where_none_is_given(job: Job, tmp_path: Path, given: dict[str, str]) -> None:
    """With `--gate 5%` typed, a machine that was never calibrated would not get the gate that it can be judged at."""
    recorder, told = tmp_path / "python", tmp_path / "told"
    records = f'if [ "$4" = run ]; then exit 0; fi; if [ "$4" = check ]; then printf "%s\\0" "${{@:5}}" > {told}; fi'
    recorder.write_text(f'#!/bin/bash\n{records}\nexec {sys.executable} "$@"\n')
    recorder.chmod(0o755)
    assert act(job, python=str(recorder), baseline="b.json", **given).startswith("failed ")
    words = told.read_text().rstrip("\0").split("\0")
    gates = [after for word, after in pairwise(words) if word == "--gate"]
    assert gates == list(given.values())
    assert {"--baseline", "b.json", "--annotations", "--junit", "--summary"} <= set(words)


@pytest.mark.parametrize(
    ("inputs", "code", "reason"),
    [
        ({"run": "--model no-such-model", "baseline": "b.json"}, 2, "no-such-model"),
        ({"run": "--suite smoke\n--input-tokens many", "baseline": "b.json"}, 2, "many"),
        ({"run": "--model mu-tiny --device npu", "baseline": "b.json"}, 5, "npu"),
        ({"run": "--model 'mu-tiny", "baseline": "b.json"}, 2, "the input run: No closing quotation"),
        ({"run": "--suite smoke"}, 2, "needs the input baseline or base-python"),
        ({"baseline": "b.json", "python": "no/python"}, 2, "no/python: No such file or directory"),
        ({"base_python": "no/base"}, 2, "--arm base=no/base: no such interpreter"),
        ({"baseline": "b.json", "out": "full"}, 2, "full: is not empty"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_run_that_measures_nothing_says_why(job: Job, inputs: dict[str, str], code: int, reason: str) -> None:
    (job.workspace / "full").mkdir()
    (job.workspace / "full" / "thesis.tex").touch()
    assert act(job, **inputs) == f"failed {code}"
    assert reason in said_everywhere(job)
    assert (job.workspace / "full" / "thesis.tex").exists()


def test_an_interpreter_without_slmbench_says_so(job: Job, tmp_path: Path) -> None:
    python = str(bare(tmp_path / "venv"))
    assert act(job, python=python, baseline="b.json") == "failed 2"
    assert said_everywhere(job) == f"{python}: No module named slmbench"
    job.annotations.clear()
    assert act(job, python=sys.executable, base_python=python, run="--suite smoke") == "failed 2"
    # What it says on the screen is in records as well, and those name no folder of this machine.
    assert f"--arm base: {python}: no slmbench there" in job.console
    assert "--arm base: .../python: no slmbench there" in said_everywhere(job)


class Forge:
    """A repository on GitHub with a workflow of docs/ci.md: checks out, runs the action, keeps artifacts."""

    def __init__(self, job: Job, place: Path) -> None:
        self.job = job
        self.origin = place / "origin"
        self.origin.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")
        self.kept: list[Path] = []
        self.changed: dict[str, str] = {}
        pythons = place / "pythons"
        pythons.mkdir()
        write_python(pythons)
        job.environment["PATH"] = f"{pythons}{os.pathsep}{os.environ['PATH']}"

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *who, *arguments], cwd=cwd or self.origin, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def commit(self, version: str) -> str:
        """Commit the project in that version; return the commit."""
        write_project(self.origin, version)
        (self.origin / "gates.yaml").write_text("alpha: 20%\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", f"Version {version}")
        return self.git("rev-parse", "HEAD")

    def uses(self, name: str, given: Mapping[str, str]) -> Mapping[str, str]:
        if name.startswith("actions/checkout@"):
            place = self.job.workspace / given.get("path", ".")
            # As the real one: what is not of the repository stays where the machine keeps its folders.
            self.git("clone", "--quiet", str(self.origin), str(self.job.temp / "clone"))
            self.git("checkout", "--quiet", given.get("ref", "main"), cwd=self.job.temp / "clone")
            subprocess.run(["cp", "-rT", self.job.temp / "clone", place], check=True)
            subprocess.run(["rm", "-rf", self.job.temp / "clone"], check=True)
            return {}
        if name.startswith("actions/upload-artifact@"):
            self.kept.append(self.job.workspace / given["path"])
            return {}
        assert name == "OWNER/slmbench@VERSION", name
        return run_action(ACTION, {**given, **self.changed}, self.job)

    def work(self, heading: str) -> str:
        """Run the workflow under that heading of docs/ci.md; return the action's exit code."""
        text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
        (block,) = re.findall(rf"### {heading}\n\n```yaml\n(.*?)```", text, re.DOTALL)
        (steps,) = [one["steps"] for one in yaml.safe_load(block)["jobs"].values()]
        self.job.failed, self.job.summary, self.job.console = False, "", ""
        self.job.annotations.clear()
        run_steps(steps, self.job, self.uses)
        assert self.kept.pop().is_dir()
        return str(self.job.steps["action"]["outputs"]["exit-code"])


@pytest.fixture
def forge(job: Job, tmp_path: Path) -> Forge:
    return Forge(job, tmp_path)


def verdicts(job: Job) -> dict[str, int]:
    (suite,) = junit(job)
    return {name: int(suite.get(name, "")) for name in ("tests", "failures", "errors")}


@pytest.mark.slow
@takes_turns(3, 4)
def test_a_pull_request_is_judged_against_its_base_branch(job: Job, forge: Forge) -> None:
    base, _ = forge.commit(FAST), forge.commit(SLOW)
    job.github = {"event": {"pull_request": {"base": {"sha": base}}}}
    forge.changed = {"run": WORK, "gates": "head/gates.yaml"}
    assert forge.work("Pull request, on any runner") == "1", job.console
    assert job.failed
    assert "check REGRESSED" in job.console
    record = json.loads((job.workspace / "slmbench-run" / "run.json").read_text(encoding="utf-8"))
    assert [record["versions"][arm]["slmbench-brake"] for arm in ("base", "head")] == [FAST, SLOW]
    assert verdicts(job)["tests"] == 2
    assert verdicts(job)["failures"] >= 1
    assert "## slmbench: slmbench-run@head against slmbench-run@base: " in job.summary
    assert [kind for kind, _, message in job.annotations if "tpot is" in message] == ["error"]

    # The same machine again, the folder of the first job still there; now the head does not survive its first step.
    forge.commit(DYING)
    assert forge.work("Pull request, on any runner") == "5", job.console
    assert any(title == "slmbench: failed" and "SIGKILL" in text for _, title, text in job.annotations)
    assert "SIGKILL" in job.summary
    assert "SIGKILL" in (job.workspace / "slmbench-run" / "junit.xml").read_text()


@pytest.mark.slow
@takes_turns(2, 4)
def test_a_nightly_run_is_judged_against_the_committed_baseline(job: Job, forge: Forge, tmp_path: Path) -> None:
    forge.commit(FAST)
    python = environment(tmp_path / "venv", FAST)
    work = [word for line in WORK.splitlines() for word in line.partition("#")[0].strip(" \\").replace("'", "").split()]
    for command in (["run", *work, "--out", "base"], ["baseline", "save", "base", "origin/benchmarks/baseline.json"]):
        subprocess.run(
            [python, "-m", "slmbench", *command],
            cwd=tmp_path,
            env=job.environment,
            check=True,
            capture_output=True,
        )
    forge.commit(FAST)
    forge.changed = {"run": WORK, "until-conclusive": "0"}
    code = forge.work("Nightly, on a fixed machine")
    # Two runs of the same on a busy machine: any verdict may come, and each says the same everywhere.
    assert code in ("0", "1", "4"), job.console
    assert job.failed == (code != "0")
    assert verdicts(job)["tests"] == 2
    assert (verdicts(job)["failures"] > 0) == (code == "1")
    assert "## slmbench: slmbench-run against baseline" in job.summary
    assert {"1": "REGRESSED", "4": "INCONCLUSIVE", "0": "passed"}[code] in job.console

    baseline: dict[str, Any] = json.loads((forge.origin / "benchmarks" / "baseline.json").read_text(encoding="utf-8"))
    baseline["machine"]["hardware"]["cpu_model"] = "Other 1"
    (forge.origin / "benchmarks" / "baseline.json").write_text(json.dumps(baseline))
    forge.commit(FAST)
    assert forge.work("Nightly, on a fixed machine") == "3", job.console
    assert "cpu_model" in said_everywhere(job)
