"""The heavy environments of .ci: each has what the tests' own conftest imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [
    Requirement(line)
    for line in (TESTS / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
SCRIPTS = [path for path in sorted((ROOT / ".ci").iterdir()) if path.name != "run"]


def packages(path: Path, seen: set[Path]) -> set[str]:
    """Return the packages that a module of tests/ imports at its top, with those of the modules next to it."""
    seen.add(path)
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in {name.partition(".")[0] for name in names}:
            beside = TESTS / f"{name}.py"
            if not beside.exists():
                found.add(name)
            elif beside not in seen:
                found |= packages(beside, seen)
    return found - set(sys.stdlib_module_names)


def test_conftest_imports_nothing_that_a_small_environment_lacks() -> None:
    base = {Requirement(one).name for one in PROJECT["dependencies"]}
    assert packages(TESTS / "conftest.py", set()) <= {one.name for one in NEEDED} | base | {"slmbench", "yaml"}


def test_the_bounds_are_those_of_the_extra() -> None:
    assert {str(one) for one in NEEDED} <= {str(Requirement(one)) for one in PROJECT["optional-dependencies"]["test"]}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_environment_has_a_list_of_its_own(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "tests/requirements.txt" in text
    assert not re.findall(
        r"^ *(?:pip|.*pip install) .*\b(?:pytest|hypothesis)\b", text.replace("\\\n", " "), re.MULTILINE
    )
