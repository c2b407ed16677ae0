"""The tree stays easy to find one's way in: one name for one thing, files and functions of a size that can be read."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("slmbench", "backends") for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
#: Names that say the same in every folder; the folder says of which engine, format or family.
OF_MANY_FOLDERS = {
    "answers.py",
    "__init__.py",
    "__main__.py",
    "backend.py",
    "cuda.py",
    "decoder_only.py",
    "encoder_decoder.py",
    "genai_backend.py",
    "gguf.py",
    "graph.py",
    "limits.py",
    "ort_genai.py",
    "probe.py",
    "qnn.py",
    "quality.py",
    "route.py",
    "session.py",
    "static_session.py",
    "vision_part.py",
}


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path in FILES:
        yield from ((path.relative_to(ROOT), node) for node in definitions(path) if isinstance(node, kinds))


@cache
def definitions(path: Path) -> list[ast.AST]:
    wanted = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, wanted)]


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path, node in nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        places[node.name.lstrip("_")].append(f"{path}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_file_has_a_name_of_its_own() -> None:
    # The command `check` is in cli/check.py: the folder says that it is the command, not what it does.
    places = defaultdict(list)
    for path in FILES:
        folder = path.parent.relative_to(ROOT)
        if path.name not in OF_MANY_FOLDERS and folder != Path("slmbench/cli"):
            places[path.name].append(str(folder))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_every_test_file_can_be_collected_from_the_command() -> None:
    """pytest collects no two files of one name, and `tests` is no package unless its folder's parent is on the path."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    collected = [path.name for path in files if path.name.startswith("test_")]
    assert sorted({name for name in collected if collected.count(name) > 1}) == []
    imports = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)
    assert [str(path) for path in files if imports.search(path.read_text(encoding="utf-8"))] == []


def test_files_and_functions_can_be_read_at_once() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}
    functions = {}
    for path, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert node.end_lineno is not None
        functions[f"{path}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: count for name, count in functions.items() if count > MOST_LINES_OF_A_FUNCTION} == {}


def test_contributing_names_files_and_folders_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\| Where .*\? \| `([\w/.]+)` \|$", text, re.MULTILINE)
    assert len(answers) >= 20
    named = set(re.findall(r"`((?:slmbench|backends|tests|docs|suites|examples|benchmarks)/[\w/.]*)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    # The table of folders has all of them.
    folders = {
        f"{path.relative_to(ROOT)}/" for path in (ROOT / "slmbench").iterdir() if (path / "__init__.py").exists()
    }
    assert folders <= named
