"""The command line: one module a command, each imported only when it is called for."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click
import typer.main
from typer.core import TyperGroup

from slmbench._version import __version__
from slmbench.errors import ExitCode, SlmbenchError

#: Command → (module in slmbench.cli, one-line help). The module has a typer app named ``app``.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Measure models and write a comparison table."),
    "compare": ("compare", "Compare runs: ratios, intervals, verdicts."),
    "check": ("check", "Guard a baseline in CI: one verdict, one exit code."),
    "baseline": ("baseline", "Save a run as a small baseline file."),
    "history": ("history", "Follow a metric over many runs."),
    "table": ("table", "Make a run's tables again from its samples."),
    "export": ("export", "Export a checkpoint to an artifact."),
    "models": ("models", "List the catalog."),
    "suites": ("suites", "List or show suites."),
    "devices": ("devices", "List devices and what is missing for the others."),
    "limits": ("limits", "Measure what a device can do at best."),
    "doctor": ("doctor", "Tell what would disturb a run here."),
    "calibrate": ("calibrate", "Measure the noise floor of this machine."),
    "cache": ("cache", "List, verify or clean the artifact cache."),
    "explain": ("explain", "Count FLOPs and bytes of a model."),
}


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order people meet them."""
        return [name for name, (module, _) in COMMANDS.items() if find_spec(f"slmbench.cli.{module}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; for the overview a stand-in with its help is enough."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, text = COMMANDS[cmd_name]
        if ctx.resilient_parsing or "--help" in sys.argv[1:2]:
            return click.Command(cmd_name, help=text)
        return typer.main.get_command(import_module(f"slmbench.cli.{module}").app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of design.md §8."""
    raise SystemExit(int(run_main(arguments)))


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors a user can cause become one line on stderr."""
    return ExitCode.OK
