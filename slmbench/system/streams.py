"""Standard streams: what the shell closed, and readers that leave before the command ends."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def open_standard_streams() -> None:
    """Open what the shell closed (``2>&-``) on the null device.

    Else the next file that is opened gets the stream's number, and what an engine prints ends in it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # Its file number outlives it: children inherit that.
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open until the process ends)


#: What stands for a character where the stream's encoding lacks it: Windows code pages, ASCII.
_PLAIN = {
    "±": "+/-", "−": "-", "–": "-", "—": "-", "─": "-", "·": "*", "→": "->", "≤": "<=", "≥": ">=",  # noqa: RUF001
    "×": "x", "÷": "/", "▲": "^", "▼": "v", "…": "...", "°": " deg ", "²": "^2", "µ": "u",  # noqa: RUF001
}  # fmt: skip


def _as_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(_PLAIN.get(c, ascii(c)[1:-1]) for c in error.object[error.start : error.end])
    return text, error.end


def print_in_any_encoding() -> None:
    """Make everything printable on standard output and error, also characters that their encoding does not have."""
    codecs.register_error("slmbench.plain", _as_plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors="slmbench.plain")


class _UntilClosed(io.FileIO):
    """A stream whose reader may leave (``| head``): what is written then is dropped, and the command continues."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, to the null device once the reader has left."""
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def outlive_readers() -> None:
    """Let a command end as it would without its pipe: a verdict's exit code must not hang on who reads the output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            raw = _UntilClosed(stream.fileno(), "w", closefd=False)
            kept: dict[str, Any] = {
                "encoding": stream.encoding,
                "errors": stream.errors,
                "line_buffering": stream.line_buffering,
            }
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), **kept))
