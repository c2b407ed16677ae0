"""Every option that a text of ours names exists, and where the text names its command, that command has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from synthetic import Speed, make_run

from slmbench.cli import COMMANDS

ROOT = Path(__file__).parents[2]
#: Options of other programs that our texts name.
FOREIGN = {
    "--privileged", "--cpuset-cpus", "--index-url", "--no-deps", "--extra-index-url", "--resolution",
    "--force-reinstall", "--extra", "--stateful", "--no-cache-dir", "--no-binary",
}  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def commands() -> dict[str, set[str]]:
    """Return every command (``run``, ``fleet worker``) and its options."""
    found: dict[str, set[str]] = {}

    def visit(name: str, command: click.Command) -> None:
        own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        found[name] = own | {"--help"}
        for sub, inner in getattr(command, "commands", {}).items():
            visit(f"{name} {sub}", inner)

    for name, (module, _) in COMMANDS.items():
        visit(name, typer.main.get_command(import_module(f"slmbench.cli.{module}").app))
    return found


def texts() -> Iterator[tuple[str, str]]:
    """Yield every text in our code with where it stands; what a text fills in becomes ``{}``. No docstrings."""
    for folder in ("slmbench", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            quiet = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in inside or id(node) in quiet:
                    continue
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = (str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)


#: Options without which a command does nothing.
REQUIRED = {"check": {"--baseline"}}


def test_every_option_that_we_name_exists() -> None:
    known = {"--version", *FOREIGN}.union(*commands().values())
    unknown = [f"{where}: {name}" for where, text in texts() for name in OPTION.findall(text) if name not in known]
    assert not unknown, unknown


def test_a_hint_with_its_command_names_that_commands_options() -> None:
    options, wrong, seen = commands(), [], 0
    for where, text in texts():
        for hint in re.findall(r"`slmbench ([^`]*)`", text):
            words = hint.split()
            pair = " ".join(words[:2])
            command = pair if pair in options else words[0] if words else ""
            if command == "{}" or not command:
                continue
            seen += 1
            named = OPTION.findall(hint)
            lacking = REQUIRED.get(command, set()) - set(named) if named else set()
            wrong += [f"{where}: {hint}: needs {lacking}"] if lacking else []
            wrong += [f"{where}: {hint}"] if not set(named) <= options.get(command, set()) else []
    assert not wrong, wrong
    assert seen > 10


#: Which commands say a text, where not `slmbench run` alone: a bare option in it must be one that all of them have.
SAID_BY = {
    "slmbench/analysis/": ("compare", "check"),
    "slmbench/analysis/baseline.py": ("baseline save",),
    "slmbench/report/comparison": ("compare", "check"),
    "slmbench/report/check_summary.py": ("check",),
    "slmbench/fleet/check.py": ("compare", "check"),
    "slmbench/fleet/read.py": ("compare", "check", "table"),
    "slmbench/running/progress.py": ("run", "check"),
    "slmbench/running/more_samples.py": ("check",),
    "slmbench/running/calibrate.py": ("calibrate",),
    "slmbench/cli/calibrate.py": ("calibrate",),
    "slmbench/cli/check.py": ("check",),
    "slmbench/cli/compare.py": ("compare",),
}


def test_advice_names_options_of_the_command_that_gives_it() -> None:
    """Options of others stand behind their command. What a text begins with was typed, and is what it is about."""
    options, wrong, seen = commands(), [], 0
    for where, text in texts():
        places = [place for place in SAID_BY if where.startswith(place)]
        if not places:
            continue
        given = set.intersection(*(options[name] for name in SAID_BY[max(places, key=len)]))
        bare = re.sub(r"`[^`]*`", "", text)
        named = [name.group() for name in OPTION.finditer(bare) if name.start() > 0]
        seen += len(named)
        wrong += [f"{where}: {name}: {text}" for name in named if name not in given]
    assert not wrong, wrong
    assert seen > 5


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["table", "RUN"], "`slmbench table RUN --markdown` shows them"),
        (["compare", "RUN", "RUN"], "--format markdown shows them"),
        (["check", "--baseline", "RUN", "RUN"], "`slmbench compare BASELINE RUN --format markdown` shows them"),
    ],
    ids=["table", "compare", "check"],
)
def test_what_a_narrow_table_leaves_out_is_named_with_a_command_that_works(
    arguments: list[str], hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmbench.cli import run_main

    run = str(ROOT / "results" / "reference" / "quick")
    monkeypatch.setenv("COLUMNS", "70")
    assert run_main([run if word == "RUN" else word for word in arguments]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Left out at 70 characters: " in said
    assert hint.replace("table RUN", f"table {run}") in said
    left = re.search(r"Left out at 70 characters: (.*?); ", said)
    assert left
    command = ["table", run, "--markdown"] if arguments[0] == "table" else ["compare", run, run, "--format", "markdown"]
    assert run_main(command) == 0
    shown = capsys.readouterr().out
    # In a column of its own, or once above the table where every row says the same.
    assert all(name in shown for name in left[1].split(", ") if not name.startswith("quick"))


def test_nothing_is_left_out_of_a_single_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from slmbench.cli import run_main

    run = make_run([Speed()]).write(tmp_path / "run")
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(["table", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "memory" in said
    assert "threads: 2" in said
    assert "Left out" not in said
