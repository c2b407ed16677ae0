"""Files that strangers may have made, read with care; files of ours, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from slmbench.errors import BadInputError, CannotRunError, one_line

#: More than any JSON file of slmbench's; a run of thousands of cases takes some megabytes.
MOST_BYTES = 100_000_000
#: More than any line of ``samples.jsonl``: a million time stamps of 20 digits.
MOST_LINE_BYTES = 20_000_000
#: The disk has no room: trying again somewhere else, or with less, would do.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: A file that may be written but not replaced: a mount of its own in a container, or in a folder of somebody else's.
_NOT_REPLACEABLE = frozenset({errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV})


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


def json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        BadInputError: it is not JSON, no object, or cannot be read.
    """
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {one_line(str(error))[:120]}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: not a JSON object")
    return value


def numbered_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file with their numbers, from 1; the last may lack its end.

    Raises:
        BadInputError: a line is longer than any of ours; a file that is one hole would fill the memory.
    """
    number = 1
    while line := file.readline(MOST_LINE_BYTES + 1):
        if len(line) > MOST_LINE_BYTES:
            raise BadInputError(f"{path}:{number}: a line of more than {MOST_LINE_BYTES:,} bytes")
        yield number, line
        number += 1


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file of a name that we chose: readers see the old or the new, never half. Text is UTF-8.

    A link of that name is replaced, not followed: in a folder that came from a stranger it may lead anywhere.

    Raises:
        BadInputError: it cannot be written.
        CannotRunError: the disk is full; what was there before is still there.
    """
    try:
        _replace(path, _bytes(content), path.lstat() if os.path.lexists(path) else None)
    except OSError as error:
        raise _refusal(path, error) from error


def write_output(path: Path, content: str | bytes) -> None:
    """Write to a path that a person typed. Text is UTF-8.

    A link is followed. What is no regular file (``/dev/stdout``, ``/dev/null``, a pipe) is written to and stays what
    it is. A regular file is replaced as a whole and keeps its mode; where it can be written but not replaced, its
    content is.

    Raises:
        BadInputError: it cannot be written.
        CannotRunError: the disk is full; what was there before is still there.
    """
    data = _bytes(content)
    try:
        place = Path(os.path.realpath(path))
        there = path.stat() if path.exists() else None
        if there is not None and (stream := _standard_stream(there)) is not None:
            # Not opened again: that would begin at the start of a file that our own output is redirected into.
            _write_all(stream, data)
        elif there is not None and not stat.S_ISREG(there.st_mode):
            _write_in_place(path, data)
        else:
            try:
                _replace(place, data, there)
            except OSError as error:
                if there is None or error.errno not in _NOT_REPLACEABLE:
                    raise
                _write_in_place(place, data)
    except BrokenPipeError:
        # Its reader has seen enough, as with standard output itself.
        raise
    except OSError as error:
        raise _refusal(path, error) from error


def check_writable(path: Path, *, append: bool = False) -> None:
    """Check that :func:`write_output`, or :func:`append_text`, can write there, before the work for it is done.

    What is there is not touched, and nothing new stays.

    Raises:
        BadInputError: it cannot be written.
        CannotRunError: the disk is full.
    """
    try:
        try:
            there = path.stat()
        except FileNotFoundError:
            _probe(Path(os.path.realpath(path)))
            return
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(there.st_mode):
            # Not opened: whoever reads a pipe would see its end.
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        try:
            if not append:
                _probe(Path(os.path.realpath(path)))
                return
        except OSError as error:
            if error.errno not in _NOT_REPLACEABLE:
                raise
        with path.open("ab"):
            pass
    except OSError as error:
        raise _refusal(path, error) from error


def _probe(path: Path) -> None:
    """Make a file in the folder of another, as :func:`_replace` does, and remove it."""
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    temporary.unlink()


class _Record(Protocol):
    def model_dump_json(self, *, indent: int | None = None) -> str: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def json_text(record: _Record, indent: int | None = None) -> str:
    """Return a pydantic record as JSON. Bytes of a path that are not UTF-8 become ``\\udc80`` to ``\\udcff``."""
    try:
        return record.model_dump_json(indent=indent)
    except ValueError:
        return json.dumps(record.model_dump(mode="json"), indent=indent)


def has_path_bytes(text: str) -> bool:
    """Return whether JSON text holds what :func:`json_text` made of a path that is not UTF-8.

    pydantic does not read it; ``json.loads`` does.
    """
    return re.search(r"\\udc[89a-f]", text) is not None


def append_text(path: Path, make: Callable[[int], str]) -> None:
    """Append text to a file that others append to as well, in place and one after the other.

    Of what is there only the last byte is read, so it may be anything. ``make`` is given its size in bytes.

    Raises:
        BadInputError: the file cannot be written.
        CannotRunError: the disk is full.
    """
    try:
        if path.exists() and (stream := _standard_stream(path.stat())) is not None:
            _write_all(stream, _bytes(make(0)))
            return
        with path.open("ab") as file:
            with suppress(ImportError, OSError):  # Windows has no fcntl, a device no locks
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            there = os.fstat(file.fileno()).st_size
            file.write(_bytes(("" if _ends_a_line(path, there) else "\n") + make(there)))
    except OSError as error:
        raise _refusal(path, error) from error


def _ends_a_line(path: Path, size: int) -> bool:
    if not size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def make_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of a name that nobody has, with the permissions that the user's umask gives any folder."""
    while True:
        with suppress(FileExistsError):
            folder = parent / f"{prefix}{secrets.token_hex(4)}"
            folder.mkdir()
            return folder


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files in a folder; 0 where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sized_folders(parent: Path) -> list[tuple[Path, int]]:
    """Return the folders in a folder, which need not exist, and their bytes, largest first."""
    found = [(one, bytes_in(one)) for one in parent.glob("*") if one.is_dir()]
    return sorted(found, key=lambda one: one[1], reverse=True)


def nearest_folder(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next((one for one in (path, *path.absolute().parents) if one.is_dir()), path)


def _bytes(content: str | bytes) -> bytes:
    # A name on disk that is not UTF-8 comes as lone surrogates, and may be part of any text.
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


def _refusal(path: Path, error: OSError) -> BadInputError | CannotRunError:
    kind = CannotRunError if error.errno in _FULL else BadInputError
    return kind(f"{path}: cannot be written: {error.strerror}")


def _temporary(path: Path) -> Path:
    # Not tempfile's: its files are the owner's alone. The name is cut, for a long one has no room for more.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")


def _replace(path: Path, data: bytes, before: os.stat_result | None) -> None:
    temporary = _temporary(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        try:
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        if before is not None and stat.S_ISREG(before.st_mode):
            with suppress(OSError):
                if hasattr(os, "chown"):
                    os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(stat.S_IMODE(before.st_mode))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_in_place(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), data)


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _standard_stream(there: os.stat_result) -> int | None:
    """Return the descriptor of our own standard output or error where that is the same file."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            handle = stream.fileno()
            if os.path.samestat(there, os.fstat(handle)):
                stream.flush()
                return handle
    return None
