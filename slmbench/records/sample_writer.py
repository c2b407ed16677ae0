"""Writing ``samples.jsonl`` and files like it: a record is on disk when its writing returns; none is lost silently."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel

from slmbench.errors import BadInputError, CannotRunError
from slmbench.records.schema import SAMPLES_NAME


class SampleWriter:
    """Appends records to ``samples.jsonl`` (or ``name``); each line is on disk when :meth:`append` returns."""

    def __init__(self, folder: Path, name: str = SAMPLES_NAME) -> None:
        self._path = path = folder / name
        if path.is_symlink():
            # A last line that was cut off is taken out, and lines are added: never of a file somewhere else.
            raise BadInputError(f"{path}: is a link; what a run writes are files of its own folder")
        try:
            _end_last_line(path)
            # Unbuffered: what a full disk did not take must not be tried again, and fail again, while closing.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error

    def append(self, record: BaseModel) -> None:
        """Write one record and flush it through to the disk.

        Raises:
            CannotRunError: the disk is full, or the file is gone; what was written before stays readable.
        """
        self.append_line(record.model_dump_json(exclude_defaults=False).encode() + b"\n")

    def append_line(self, line: bytes) -> None:
        """Write a line that another writer made (checked by :func:`parse_sample`), as it is, and flush it.

        Raises:
            CannotRunError: the disk is full, or the file is gone; what was written before stays readable.
        """
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CannotRunError(f"{self._file.name}: {error.strerror}; earlier samples are kept") from error
        # After it was written: a folder that was renamed has it. One that was removed would take the rest in silence.
        if not self._is_in_place():
            raise CannotRunError(
                f"{self._file.name}: was removed or renamed while the run wrote it; if its folder was renamed, every "
                "sample is there, and `slmbench run --resume` with the new name continues"
            )

    def _is_in_place(self) -> bool:
        try:
            found = self._path.stat()
        except OSError:
            return False
        # Windows neither renames nor removes an open file.
        return os.name == "nt" or os.path.samestat(found, os.fstat(self._file.fileno()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _end_last_line(path: Path) -> None:
    """Cut an unfinished last line off, so that a resumed run appends whole lines after whole lines."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        position = content_end
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                if start + newline + 1 < content_end:
                    file.truncate(start + newline + 1)
                return
            position = start
        file.truncate(0)
