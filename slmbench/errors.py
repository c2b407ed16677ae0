"""What a user can do wrong, and the exit code each kind of trouble ends with.

Every error a user can cause is raised as a :class:`SlmbenchError` whose text is one line: what was wrong,
where, and what would be right. The command line prints that line and exits with ``exit_code``; nothing else
decides an exit code.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

__all__ = [
    "BadInputError",
    "CannotRunError",
    "ExitCode",
    "ExporterError",
    "NotComparableError",
    "SlmbenchError",
    "first_error_line",
    "last_error_line",
    "nearest",
    "one_line",
]  # fmt: skip

#: What the one line of an error begins with.
ERROR_PREFIX = "slmbench: error: "


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    REGRESSED = 1
    BAD_INPUT = 2
    NOT_COMPARABLE = 3
    INCONCLUSIVE = 4
    FAILED = 5
    INTERRUPTED = 130


class SlmbenchError(Exception):
    """Base of all errors that end in one clear line."""

    exit_code: ExitCode = ExitCode.FAILED


class BadInputError(SlmbenchError):
    """The command line, a file or a value the user gave is wrong."""

    exit_code = ExitCode.BAD_INPUT


class NotComparableError(SlmbenchError):
    """Runs that must not be compared: another machine, no common case, another schema."""

    exit_code = ExitCode.NOT_COMPARABLE


class CannotRunError(SlmbenchError):
    """The request is sound, but a case failed or this machine lacks what it needs."""

    exit_code = ExitCode.FAILED


class ExporterError(CannotRunError):
    """An exporter took a checkpoint and failed on it: it would fail again."""


class StoppedError(SlmbenchError):
    """The user stopped the command; the text says what is kept."""

    exit_code = ExitCode.INTERRUPTED


class RunInterruptedError(KeyboardInterrupt):
    """A run was interrupted; the text says what is kept and how to go on."""

    def __init__(self, text: str, folder: Path | None = None) -> None:
        super().__init__(text)
        #: Where the samples are; None where there are none yet.
        self.folder = folder


def nearest(name: str, known: list[str], *, count: int = 3) -> str:
    """Return ``" Did you mean a, b?"`` for the known names nearest to ``name``, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=count, cutoff=0.5)
    return f" Did you mean {', '.join(close)}?" if close else ""


def first_error_line(error: BaseException) -> str:
    """Return the first line of what an engine says of its trouble; the error's type where it says nothing."""
    return _line_of(error, 0)


def last_error_line(error: BaseException) -> str:
    """Return the last line of it: what OpenVINO found stands behind where it looked."""
    return _line_of(error, -1)


def _line_of(error: BaseException, line: int) -> str:
    # An engine's message may quote a damaged file, and a binding that cannot make text of that raises this instead.
    text = error.object.decode("utf-8", "replace") if isinstance(error, UnicodeDecodeError) else str(error)
    lines = text.strip().splitlines()
    # OpenVINO's begin with places in its own source files.
    reported = [one for one in lines if not one.startswith("Exception from ")] or lines
    return one_line(reported[line]) if reported else type(error).__name__


def amount(count: int, noun: str) -> str:
    """Return ``1 case`` or ``2 cases``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def root_cause(error: BaseException) -> BaseException:
    """Return the error that others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def one_line(text: str) -> str:
    """Return the text on one line, without control characters: a name from a file must not steer a terminal."""
    printable = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return printable.strip()
