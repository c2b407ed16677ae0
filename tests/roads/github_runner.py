"""A runner for GitHub's composite actions and the jobs that use them, as its documentation describes them.

Expressions, `if`, inputs with defaults, outputs, the files GITHUB_OUTPUT, GITHUB_ENV, GITHUB_PATH and
GITHUB_STEP_SUMMARY (dropped above 1 MiB), one shell per step: `bash --noprofile --norc -eo pipefail`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MOST_SUMMARY_BYTES = 1024 * 1024
SHOWN_ANNOTATIONS = 10
_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|\d+(?:\.\d+)?|[A-Za-z_][\w.-]*|==|!=|&&|\|\||[!(),])")
_STATUS = ("always", "success", "failure", "cancelled")
#: Runs what `uses` names, given the inputs; returns outputs.
Uses = Callable[[str, Mapping[str, str]], Mapping[str, str]]


class StepFailedError(Exception):
    """A step failed that nothing continues after."""


@dataclass
class Job:
    """What the steps of a job leave behind; also the context in which expressions are worked out."""

    workspace: Path
    temp: Path
    environment: dict[str, str]
    inputs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    github: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    console: str = ""
    summary: str = ""
    #: Kind, title, message; of each step and kind those that GitHub shows.
    annotations: list[tuple[str, str, str]] = field(default_factory=list)

    def value(self, name: str) -> Any:
        """Return what a name in an expression stands for; what is not there is an empty string."""
        literals = {"true": True, "false": False, "null": ""}
        if name in literals:
            return literals[name]
        contexts: dict[str, Any] = {
            "inputs": self.inputs,
            "steps": self.steps,
            "env": self.environment,
            "github": {"workspace": str(self.workspace), **self.github},
            "runner": {"temp": str(self.temp), "os": "Linux"},
        }
        found: Any = contexts
        for part in name.split("."):
            found = found.get(part, "") if isinstance(found, Mapping) else ""
        return found

    def function(self, name: str) -> bool:
        """Return what a status function says of the steps so far."""
        return {"always": True, "success": not self.failed, "failure": self.failed, "cancelled": False}[name]


def evaluated(expression: str, job: Job) -> Any:
    """Work out one expression.

    Raises:
        ValueError: it uses what this runner does not know.
    """
    tokens = _TOKEN.findall(expression)
    if re.sub(r"\s", "", "".join(tokens)) != re.sub(r"\s", "", expression):
        raise ValueError(f"cannot read the expression {expression!r}")
    tokens.append("")

    def either() -> Any:
        left = both()
        while tokens[0] == "||":
            tokens.pop(0)
            right = both()
            left = left or right
        return left

    def both() -> Any:
        left = compared()
        while tokens[0] == "&&":
            tokens.pop(0)
            right = compared()
            left = left and right
        return left

    def compared() -> Any:
        left = single()
        if tokens[0] in ("==", "!="):
            same = tokens.pop(0) == "=="
            return (_text(left).lower() == _text(single()).lower()) == same
        return left

    def single() -> Any:
        token = tokens.pop(0)
        if token == "!":
            return not single()
        if token == "(":
            inner = either()
            if tokens.pop(0) != ")":
                raise ValueError(f"a bracket is not closed in {expression!r}")
            return inner
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if token[:1].isdigit():
            return float(token)
        if tokens[0] == "(":
            del tokens[:2]
            return job.function(token)
        return job.value(token)

    found = either()
    if tokens != [""]:
        raise ValueError(f"cannot read the expression {expression!r} from {tokens[0]!r}")
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def filled(text: Any, job: Job) -> str:
    """Return text with its ``${{ }}`` worked out."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: _text(evaluated(found.group(1), job)), _text(text))


def _wanted(step: Mapping[str, Any], job: Job) -> bool:
    condition = str(step.get("if", "success()")).strip().removeprefix("${{").removesuffix("}}")
    if not any(f"{name}(" in condition for name in _STATUS):
        condition = f"success() && ({condition})"
    return bool(evaluated(condition, job))


def run_steps(steps: list[dict[str, Any]], job: Job, uses: Uses) -> None:
    """Run the steps in order; after one that failed only those whose `if` asks for it."""
    for number, step in enumerate(steps):
        if not _wanted(step, job):
            continue
        outcome, outputs = "success", dict[str, str]()
        if "uses" in step:
            given = {name: filled(value, job) for name, value in step.get("with", {}).items()}
            try:
                outputs = dict(uses(step["uses"], given))
            except StepFailedError:
                outcome = "failure"
        else:
            code, outputs = _shell(step, job)
            outcome = "success" if code == 0 else "failure"
        if outcome == "failure" and not step.get("continue-on-error"):
            job.failed = True
        job.steps[step.get("id", f"step-{number}")] = {"outputs": outputs, "outcome": outcome}


def _shell(step: Mapping[str, Any], job: Job) -> tuple[int, dict[str, str]]:
    names = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
    files = {name: job.temp / f"{name.lower()}-{os.urandom(4).hex()}" for name in names}
    for file in files.values():
        file.touch()
    script = job.temp / f"script-{os.urandom(4).hex()}.sh"
    script.write_text(filled(step["run"], job), encoding="utf-8")
    environment = {
        **job.environment,
        **{name: filled(value, job) for name, value in step.get("env", {}).items()},
        **{name: str(file) for name, file in files.items()},
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(job.workspace),
        "RUNNER_TEMP": str(job.temp),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
        cwd=job.workspace / filled(step.get("working-directory", "."), job),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    job.console += done.stdout
    job.annotations += _annotations(done.stdout)
    summary = files["GITHUB_STEP_SUMMARY"].read_bytes()
    job.summary += summary.decode() if len(summary) <= MOST_SUMMARY_BYTES else ""
    job.environment |= _assignments(files["GITHUB_ENV"].read_text(encoding="utf-8"))
    for line in files["GITHUB_PATH"].read_text(encoding="utf-8").splitlines():
        job.environment["PATH"] = f"{line}{os.pathsep}{job.environment['PATH']}"
    return done.returncode, _assignments(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))


def _assignments(text: str) -> dict[str, str]:
    """Return what a step wrote as ``name=value`` or ``name<<END``."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        if here := re.fullmatch(r"([^=]+?)<<(.+)", line):
            found[here[1]] = "\n".join(iter(lambda: next(lines), here[2]))
        elif line:
            name, _, value = line.partition("=")
            found[name] = value
    return found


def _annotations(output: str) -> Iterator[tuple[str, str, str]]:
    counts: dict[str, int] = {}
    for kind, title, message in re.findall(r"^::(error|warning|notice) title=(.*?)::(.*)$", output, re.MULTILINE):
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= SHOWN_ANNOTATIONS:
            plain = [text.replace("%3A", ":").replace("%2C", ",").replace("%25", "%") for text in (title, message)]
            yield kind, plain[0], plain[1]


def run_action(file: Path, given: Mapping[str, str], job: Job) -> dict[str, str]:
    """Run a composite action with inputs, within a job; return its outputs.

    Raises:
        StepFailedError: one of its steps failed. Its outputs are in ``job.steps["action"]`` all the same.
    """
    action = yaml.safe_load(file.read_text(encoding="utf-8"))
    unknown = set(given) - set(action["inputs"])
    assert not unknown, f"no such inputs: {unknown}"
    assert action["runs"]["using"] == "composite"
    inside = Job(job.workspace, job.temp, job.environment, github={**job.github, "action_path": str(file.parent)})
    inside.inputs = {name: filled(one.get("default", ""), job) for name, one in action["inputs"].items()} | dict(given)
    assert all("shell" in step for step in action["runs"]["steps"] if "run" in step), "composite steps name a shell"

    def uses(name: str, _: Mapping[str, str]) -> Mapping[str, str]:
        raise NotImplementedError(name)

    run_steps(action["runs"]["steps"], inside, uses)
    job.console += inside.console
    job.summary += inside.summary
    job.annotations += inside.annotations
    outputs = {name: filled(one["value"], inside) for name, one in action.get("outputs", {}).items()}
    job.steps["action"] = {"outputs": outputs, "outcome": "failure" if inside.failed else "success"}
    if inside.failed:
        raise StepFailedError(file)
    return outputs
