"""The folder of a run: made when the run begins, and gone again where it ends before it has anything to keep."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.plan.request import RunRequest
from slmbench.plan.suite import Suite
from slmbench.records.schema import RUN_NAME
from slmbench.system.locks import only_run_in


@contextmanager
def run_folder(request: RunRequest, suite: Suite) -> Iterator[Path]:
    """Yield the folder, which nobody else writes to meanwhile.

    Raises:
        BadInputError: it cannot be made or written, is not empty, or another run writes there.
    """
    folder = request.resume or request.out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{suite.name}"
    # The lock comes first: who does not get it must not remove what the other has just made.
    with only_run_in(folder):
        new = [one for one in (folder, *folder.parents) if not one.exists()]
        try:
            _make(folder, resumed=request.resume is not None)
            yield folder
        finally:
            if new and not (folder / RUN_NAME).exists():
                # What a log says of an error is in the error.
                shutil.rmtree(folder / "logs", ignore_errors=True)
                with suppress(OSError):
                    for one in new:
                        one.rmdir()


def _make(folder: Path, *, resumed: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed and not _unused(folder):
            raise BadInputError(f"{folder}: is not empty; choose another --out, or --resume {folder}")
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder}: cannot be written")


def _unused(folder: Path) -> bool:
    """Return whether a run may begin here: nothing is there but the logs of one that ended before it began."""
    return all(entry.name == "logs" for entry in folder.iterdir())
