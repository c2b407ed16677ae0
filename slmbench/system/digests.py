"""SHA-256 of files; of large ones it is remembered while size, time of change and place on the disk stay the same."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from slmbench.errors import SlmbenchError
from slmbench.system.files import write_whole
from slmbench.system.paths import cache_dir


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_remembered(path: Path) -> str:
    """Return a file's SHA-256, read from the file only where it is new or was changed since.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    note = cache_dir() / "digests" / f"{state.st_dev:x}-{state.st_ino:x}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = json.loads(note.read_bytes())
        if kept["state"] == seen and isinstance(kept["sha256"], str):
            return str(kept["sha256"])
    found = sha256_of(path)
    # A cache that cannot be written costs time, nothing else.
    with suppress(SlmbenchError, OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps({"state": seen, "sha256": found}))
    return found
