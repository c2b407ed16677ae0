"""Where slmbench keeps things, and paths whose bytes are not UTF-8."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

from slmbench.errors import CannotRunError


def plain_text(text: str) -> str:
    """Return a name from a disk as text that can be stored anywhere: a byte that is not UTF-8 is spelled out."""
    return text.encode(errors="backslashreplace").decode()


def cache_dir() -> Path:
    """Return the cache folder: ``$SLMBENCH_CACHE``, or the platform's user cache. It may not exist yet.

    Raises:
        CannotRunError: as :func:`plain_path`.
    """
    return plain_path(Path(os.environ.get("SLMBENCH_CACHE") or platformdirs.user_cache_dir("slmbench")))


def closed_cache() -> str | None:
    """Return that the cache cannot be written, and the way out; None where it can, or nobody knows before it is."""
    cache = cache_dir()
    there = next((one for one in (cache, *cache.absolute().parents) if one.exists()), cache)
    if os.access(there, os.W_OK):
        return None
    return f"the cache {cache} cannot be written; SLMBENCH_CACHE names another folder"


def plain_path(folder: Path) -> Path:
    """Return the folder, by a link if its path is not UTF-8: engines and exporters take no other. It is then made.

    Raises:
        CannotRunError: the link cannot be made.
    """
    if sys.platform == "win32" or plain_text(str(folder)) == str(folder):
        return folder
    name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
    links = Path(tempfile.gettempdir()) / f"slmbench-links-{os.geteuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        links.mkdir(mode=0o700, exist_ok=True)
        if links.is_symlink() or links.stat().st_uid != os.geteuid():
            raise CannotRunError(f"{links}: is somebody else's; set TMPDIR to a folder of your own")
        with suppress(FileExistsError):
            (links / name).symlink_to(folder.absolute())
    except OSError as error:
        raise CannotRunError(
            f"{plain_text(str(folder))}: its path is not UTF-8, and {links}: {error.strerror}"
        ) from error
    return links / name
