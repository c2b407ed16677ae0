"""Reading files that strangers may have made: regular ones, up to a size; no device or pipe that never ends."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from slmbench.errors import BadInputError, CannotRunError

#: More than any JSON file of slmbench's; a run of thousands of cases takes some megabytes.
MOST_BYTES = 100_000_000
#: The disk has no room: trying again somewhere else, or with less, would do.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read.

    Raises:
        OSError: it cannot be opened; or what is there, or where a link leads, is no regular file.
    """
    # Before it is opened: opening a pipe that nobody writes to waits for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def read_regular(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: as :func:`open_regular`, or it is larger than that.
    """
    with open_regular(path) as file:
        found = file.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
    return found


def append_text(path: Path, make: Callable[[int], str]) -> None:
    """Append text to a file that others append to as well, in place and one after the other.

    Of what is there only the last byte is read, so it may be anything. ``make`` is given its size in bytes.

    Raises:
        BadInputError: the file cannot be written.
        CannotRunError: the disk is full.
    """
    try:
        with path.open("ab") as file:
            with suppress(ImportError, OSError):  # Windows has no fcntl, a device no locks
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            there = os.fstat(file.fileno()).st_size
            file.write((("" if _ends_a_line(path, there) else "\n") + make(there)).encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def _ends_a_line(path: Path, size: int) -> bool:
    if not size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _unwritable(path: Path, error: OSError) -> BadInputError | CannotRunError:
    kind = CannotRunError if error.errno in _FULL else BadInputError
    return kind(f"{path}: cannot be written: {error.strerror}")


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace the file's content in one step: readers see the old or the new, never half. Text is UTF-8.

    Raises:
        BadInputError: the folder cannot be written.
        CannotRunError: the disk is full; what was there before is still there.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error
