"""Each command's help ends with examples that its parser takes."""

from __future__ import annotations

import shlex

import pytest
from command_lines import parse

from slmbench.cli import COMMANDS, run_main
from slmbench.cli._examples import EXAMPLES


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
