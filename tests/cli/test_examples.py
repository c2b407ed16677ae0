"""Each command's help ends with examples that its parser takes."""

from __future__ import annotations

import shlex
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
import typer.main
from command_lines import parse

from slmbench.cli import COMMANDS, run_main
from slmbench.cli._examples import EXAMPLES
from slmbench.errors import ExitCode
from slmbench.models import catalog
from slmbench.plan.suite import load_suite


def test_every_command_has_examples_of_itself() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    for command, lines in EXAMPLES.items():
        assert lines
        assert all(line.split()[0] == command for line in lines)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_the_parser_takes_it(line: str) -> None:
    parse(shlex.split(line))


def test_help_shows_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(["check", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    for line in EXAMPLES["check"]:
        assert f"slmbench {line}" in shown


def parts() -> list[tuple[str, str]]:
    """Return each part of the commands that have some: ("cache", "list"), ..."""
    found = []
    for name in COMMANDS:
        command = typer.main.get_command(import_module(f"slmbench.cli.{COMMANDS[name][0]}").app)
        found += [(name, part) for part in command.commands] if isinstance(command, click.Group) else []
    return found


@pytest.mark.parametrize(("command", "part"), parts())
def test_the_help_of_each_part_shows_its_own(
    command: str, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    # Help is read before anything is installed.
    for module in ("distributed", "dask", "cryptography", "torch", "openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    assert run_main([command, part, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    _, examples = shown.out.split("Example", 1)
    lines = [line.strip() for line in examples.splitlines() if line.strip().startswith("slmbench ")]
    assert lines
    assert all(line.split()[1:3] == [command, part] for line in lines)


def test_what_a_fleet_lacks_is_said_where_it_is_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("distributed", "cryptography"):
        monkeypatch.setitem(sys.modules, module, None)
    for words, said in (
        (["scheduler"], "a fleet needs Dask; "),
        (["status", "--scheduler", "tcp://127.0.0.1:1", "--insecure"], "a fleet needs Dask; "),
        (["certs", "x"], "certificates need the package cryptography; "),
    ):
        assert run_main(["fleet", *words]) == ExitCode.FAILED
        assert f"slmbench: error: {said}" in capsys.readouterr().err


def test_what_run_says_it_measures_without_options_is_the_quick_pair(capsys: pytest.CaptureFixture[str]) -> None:
    (sizes,) = {round(catalog.get(name).parameter_count / 1e6) for name in load_suite("quick").pairs[0][:2]}
    assert run_main(["run", "--help"]) == 0
    assert f"a pair of {sizes}M models" in " ".join(capsys.readouterr().out.split())
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"model of {sizes}M parameters" in " ".join(readme.split())
