"""Files of lines: which lines count, and each as a record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from slmbench.errors import BadInputError
from slmbench.system.files import numbered_lines, open_regular

Line = TypeVar("Line")


def record_lines(path: Path, line_type: TypeAdapter[Line], warnings: list[str]) -> Iterator[Line]:
    """Yield the records of a file of lines in the order they were written; none if there is no such file.

    Raises:
        BadInputError: the file cannot be read, or a line is damaged.
    """
    for number, line in sample_lines(path, warnings):
        try:
            yield line_type.validate_json(line)
        except ValidationError as error:
            raise BadInputError(f"{path}:{number}: {explain(error)}") from error


def sample_lines(path: Path, warnings: list[str]) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of ``samples.jsonl`` with their numbers; none if there is no such file.

    The one place that says which lines count: a last line without its newline is left out, with a warning.

    Raises:
        BadInputError: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        opened = open_regular(path)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    with opened as file:
        for number, line in numbered_lines(file, path):
            if not line.endswith(b"\n"):
                # Also when it happens to be whole: a resumed run cuts it off and takes that sample again.
                warnings.append(f"{path}:{number}: the last line was cut off and is left out")
                return
            yield number, line


def explain(error: ValidationError) -> str:
    """Return where a record is wrong, and what is wrong there."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
