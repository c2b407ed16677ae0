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
    "--force-reinstall", "--extra", "--extra_options", "--stateful", "--no-cache-dir", "--no-binary",
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


#: Which commands say the texts of a file or folder; the longest place counts. An option in a text must be one that all
#: of them have, or stand behind the command that has it. `check` and `calibrate` measure as `run` does: what stops them
#: then has that command before it, and a forecast names it (the tests at the end walk both).
SAID_BY = {
    "backends/": ("run",),
    "slmbench/analysis/": ("compare", "check"),
    "slmbench/analysis/baseline.py": ("baseline save",),
    "slmbench/analysis/sides.py": ("compare",),
    "slmbench/cli/__init__.py": ("table",),
    "slmbench/cli/baseline.py": ("baseline save",),
    "slmbench/cli/cache.py": ("cache clean",),
    "slmbench/cli/fleet.py": ("run",),
    "slmbench/export/": ("run", "export"),
    "slmbench/export/artifact_store.py": ("cache clean",),
    "slmbench/fleet/": ("run",),
    "slmbench/fleet/check.py": ("compare", "check"),
    "slmbench/fleet/connection.py": ("run", "fleet scheduler", "fleet worker", "fleet status"),
    "slmbench/fleet/dask_nodes.py": ("fleet worker",),
    "slmbench/fleet/machine_server.py": ("fleet worker",),
    "slmbench/fleet/read.py": ("compare", "check", "table"),
    "slmbench/given/": ("run", "inspect", "explain"),
    "slmbench/given/projector_file.py": ("run",),
    "slmbench/machine/": ("doctor", "devices"),
    "slmbench/measure/": ("run",),
    "slmbench/models/": ("run", "export", "explain", "inspect"),
    "slmbench/plan/": ("run",),
    # What a check prints has its own hint; the others are about options of compare.
    "slmbench/report/comparison": ("compare",),
    "slmbench/report/check_summary.py": ("check",),
    "slmbench/report/history.py": ("history",),
    "slmbench/running/": ("run",),
    "slmbench/running/more_samples.py": ("check",),
    "slmbench/running/calibrate.py": ("calibrate",),
    "slmbench/running/progress.py": ("run", "check"),
    "slmbench/system/locks.py": ("run",),
}


def said_by(where: str) -> tuple[str, ...]:
    """Return the commands that say the texts of a place: a command's own file is said by that command.

    None for a file that is not listed: a text of it has each option behind its command.
    """
    places = [place for place in SAID_BY if where.startswith(place)]
    if places:
        return SAID_BY[max(places, key=len)]
    own = re.match(r"slmbench/cli/(\w+)\.py", where)
    return (own[1],) if own else ()


def misplaced(text: str, said: tuple[str, ...], options: dict[str, set[str]]) -> list[str]:
    """Return the options in a text that neither those who say it have nor the command that they stand behind.

    What a sentence begins with was typed, and is what it is about: ``--gate five: not a gate``.
    """
    found: list[str] = []
    given = set.intersection(*(options[name] for name in said)) if said else set()
    for word in re.finditer(rf"slmbench (?P<command>[a-z]+(?: [a-z]+)?)|{OPTION.pattern}", text):
        if word["command"] is None and word.start() == 0 and not re.fullmatch(OPTION.pattern + r"( \{\})?", text):
            continue
        if word["command"] is None:
            found += [] if word.group() in given | FOREIGN else [word.group()]
        else:
            named = next((one for one in (word["command"], word["command"].split()[0]) if one in options), None)
            given = options[named] if named else given
    return found


def test_advice_names_options_of_the_command_that_gives_it() -> None:
    options, wrong, seen = commands(), [], 0
    #: Not read by people: options as they are declared, and the examples, which are run by a test of their own.
    declared = {name for own in options.values() for name in own} | {"--version"}
    for where, text in texts():
        if not OPTION.search(text) or text in declared or where.startswith("slmbench/cli/_examples"):
            continue
        seen += 1
        wrong += [f"{where}: {name}: {text}" for name in misplaced(text, said_by(where), options)]
    assert not wrong, "\n".join(wrong)
    assert seen > 100


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
