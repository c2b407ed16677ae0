"""Reading files that strangers may have made: regular ones, up to a size; no device or pipe that never ends."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import BinaryIO

#: More than any JSON file of slmbench's; a run of thousands of cases takes some megabytes.
MOST_BYTES = 100_000_000


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
