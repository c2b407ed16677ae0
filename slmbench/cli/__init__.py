"""The command line: one module a command, each imported only when it is used."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Annotated

import click
import typer.main
from typer.core import TyperGroup

from slmbench._version import __version__
from slmbench.cli._examples import epilog
from slmbench.errors import ERROR_PREFIX, BadInputError, ExitCode, SlmbenchError, nearest, one_line
from slmbench.system.processes import keep_docstrings
from slmbench.system.streams import open_standard_streams, outlive_readers, print_in_any_encoding

#: Command → (module in slmbench.cli, one-line help). The module has a typer app named ``app``.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Measure models and write a comparison table."),
    "compare": ("compare", "Compare runs: ratios, intervals, verdicts."),
    "check": ("check", "Guard a baseline in CI: one verdict, one exit code."),
    "baseline": ("baseline", "Save a run as a small baseline file."),
    "history": ("history", "Follow a metric over many runs."),
    "table": ("table", "Recreate a run's tables from its samples."),
    "export": ("export", "Export a checkpoint to an artifact."),
    "inspect": ("inspect", "Describe an artifact that you already have."),
    "models": ("models", "List the catalog."),
    "suites": ("suites", "List or show suites."),
    "devices": ("devices", "List devices and what is missing for the others."),
    "limits": ("limits", "Measure what a device can do at best."),
    "doctor": ("doctor", "Say why a run is slow, noisy or refused here."),
    "calibrate": ("calibrate", "Measure the noise floor of this machine."),
    "cache": ("cache", "List, verify or clean the artifact cache."),
    "fleet": ("fleet", "Measure on many machines: scheduler, worker, status."),
    "explain": ("explain", "Count FLOPs and bytes of a model."),
}


#: Characters of one line of an error.
MAX_LINE = 2000


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the commands in the order people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; the overview only needs a placeholder with its help."""
        if cmd_name not in COMMANDS:
            return None
        module, text = COMMANDS[cmd_name]
        if ctx.args is not None and not _is_called(ctx, cmd_name):
            return click.Command(cmd_name, help=text)
        command = typer.main.get_command(import_module(f"slmbench.cli.{module}").app)
        command.name, command.epilog = cmd_name, epilog(cmd_name)
        if isinstance(command, click.Group):
            for part, one in command.commands.items():
                one.epilog = epilog(cmd_name, part)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to call; for an unknown name the error suggests the nearest ones."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise BadInputError(f"unknown command '{args[0]}'.{nearest(args[0], list(COMMANDS))}")
        ctx.meta[_CALLED] = args[0] if args else None
        return super().resolve_command(ctx, args)


_CALLED = "slmbench.called"


def _is_called(ctx: click.Context, name: str) -> bool:
    return ctx.meta.get(_CALLED) == name or ctx.resilient_parsing


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"slmbench {__version__}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How fast a small language model really is on your device.

    Start with `slmbench run`: it measures an encoder-decoder and a decoder-only model of the same size.
    """


def main() -> None:
    """Run the command line; exits with a code of :class:`slmbench.errors.ExitCode`."""
    open_standard_streams()
    outlive_readers()
    keep_docstrings()
    _end_as_ctrl_c_does()
    try:
        code = run_main(sys.argv[1:])
    except Exception:
        # Python's own code for this is 1, which says "regressed" here: a bug must not look like a slowdown.
        traceback.print_exc()
        bug = "this is a bug in slmbench; what is above tells where"
        code = _fail(bug, ExitCode.FAILED, as_json=_wants_json(sys.argv[1:]))
    raise SystemExit(code)


def _end_as_ctrl_c_does() -> None:
    """Let SIGTERM (``timeout``, a CI job's time limit) end a command as Ctrl-C does: it says what is kept."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def run_main(arguments: list[str]) -> int:
    """Run the command line and return its exit code.

    An error a user can cause becomes one line on stderr, and where JSON was asked for also JSON on stdout. Anything
    else is a bug and keeps its traceback.
    """
    fail = partial(_fail, as_json=_wants_json(arguments))
    command = typer.main.get_command(app)
    _prepare_output()
    try:
        code = command.main(arguments, prog_name="slmbench", standalone_mode=False)
    except SlmbenchError as error:
        code = fail(str(error), error.exit_code)
        for note in _notes(error):
            typer.echo(f"slmbench: note: {_shortened(one_line(note))}", err=True)
        return code
    except click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        return ExitCode.OK
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return fail(error.format_message() + where, ExitCode.BAD_INPUT)
    except click.ClickException as error:
        return fail(error.format_message(), ExitCode.BAD_INPUT)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", ExitCode.INTERRUPTED)
    except OSError as error:
        # A full disk, a folder that is gone or not ours: a problem of the machine, not a bug.
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}{_other_cache(error)}", ExitCode.FAILED)
    if code == ExitCode.INTERRUPTED:
        # typer ends with this code and says nothing.
        return fail("interrupted", ExitCode.INTERRUPTED)
    return code if isinstance(code, int) else ExitCode.OK


def _notes(error: BaseException | None) -> Iterator[str]:
    """Yield what an error has for the screen alone: its text may get into files that are passed on."""
    while error is not None:
        yield from getattr(error, "__notes__", ())
        error = error.__cause__


def _other_cache(error: OSError) -> str:
    """Return how to name another cache where an error is about the one there is."""
    from slmbench.system.paths import cache_dir

    inside = isinstance(error.filename, str | bytes) and os.fsdecode(error.filename).startswith(str(cache_dir()))
    return "; SLMBENCH_CACHE names another folder for the cache" if inside else ""


def _prepare_output() -> None:
    """Make everything printable: characters that the terminal does not have, tables where the width is unknown."""
    print_in_any_encoding()
    # Some shells without a terminal set it to 0, and a table of that width prints nothing.
    if not os.environ.get("COLUMNS", "unset").strip("0"):
        del os.environ["COLUMNS"]


def _wants_json(arguments: list[str]) -> bool:
    """Return whether whoever reads the output expects JSON, also where the rest of the arguments is wrong."""
    formats = {arguments[index + 1] for index, one in enumerate(arguments[:-1]) if one == "--format"}
    return "--json" in arguments or "--format=json" in arguments or "json" in formats


def _fail(message: str, code: ExitCode, *, as_json: bool) -> int:
    first, *more = [_shortened(one_line(line)) for line in message.splitlines()] or [""]
    typer.echo("\n".join([f"{ERROR_PREFIX}{first}", *(f"  {line}" for line in more)]), err=True)
    if as_json:
        error = {"message": "\n".join([first, *more]), "kind": code.name.lower(), "exit_code": int(code)}
        with suppress(OSError):
            typer.echo(json.dumps({"error": error}, indent=1))
    return code


def _shortened(line: str) -> str:
    """Cut the middle out of a line that is far too long; the file name is at its start."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 4 :]}"
