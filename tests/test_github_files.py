"""What GitHub reads: steps are sessions of noxfile.py, forms ask for what is needed, versions agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from slmbench._version import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
SESSIONS = set(
    re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
)
NOX = re.compile(r"pipx run nox -s ([\w. ${}-]+?)(?: -- .*)?$")


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_is_a_session_or_the_whole_of_ci(path: Path) -> None:
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        if command == ".ci/run":
            continue
        found = NOX.match(command)
        assert found, command
        named = {
            re.sub(r"-\$\{\{.*|-3\.\d+", "", one) for one in found[1].split(" ") if one not in ("matrix.python", "}}")
        }
        assert named <= SESSIONS, command


def test_ci_itself_uses_the_same_sessions() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"nox --no-venv -s lint docs$", script, re.MULTILINE)
    assert not re.search(r"bin/(ruff|mypy|vulture|lint-imports)\b", script)


def test_python_versions_are_those_that_the_package_names() -> None:
    listed = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["fast"]["strategy"]
    assert matrix["matrix"]["python"] == listed
    systems = {row["os"] for row in matrix["matrix"]["include"]} | set(matrix["matrix"]["os"])
    for part in ("ubuntu", "-arm", "windows", "macos", "-intel"):
        assert any(part in system for system in systems), part


def test_a_release_needs_no_stored_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in text
    # Only the job that publishes may ask for one, and it runs nothing of the repository.
    assert "permissions" not in jobs["build"]
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_ask_for_the_doctor(path: Path) -> None:
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
    (doctor,) = [one for one in fields if one.get("id") == "doctor"]
    assert "`slmbench doctor --json`" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
