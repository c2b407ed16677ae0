"""The processes of a run that prepare pictures for its workers, where a checkpoint brings a processor of its own."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import TracebackType

from slmbench.errors import BadInputError
from slmbench.models.artifact import read_artifact
from slmbench.models.picture_processor import has_own_processor
from slmbench.running.settings import PlannedCase
from slmbench.running.worker_process import Worker, log_path
from slmbench.worker import protocol as p

#: Seconds to begin to listen; transformers is imported later.
_LISTEN_TIMEOUT_S = 60.0


class PictureProcesses:
    """One process for each interpreter, started for the first case that needs it; on leaving, all are gone."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the run, for their logs."""
        self._folder = folder
        self._started: dict[str | None, tuple[Worker, p.PictureProcess]] = {}

    def of(self, planned: PlannedCase) -> p.PictureProcess | None:
        """Return the process that prepares a case's pictures; None where its worker needs none.

        Raises:
            WorkerError: it does not start.
            BadInputError: the interpreter has no slmbench, or another one.
        """
        if not planned.case.workload.images or not _has_own(planned):
            return None
        worker, there = self._started.get(planned.python, (None, None))
        if worker is None or not worker.alive:
            name = "pictures" if planned.python is None else f"pictures-{planned.case.arm}"
            worker, key = Worker(log_path(self._folder, name), python=planned.python), secrets.token_hex(16)
            try:
                reply = worker.ask(p.PreparePictures(key=key), p.PreparesPictures, _LISTEN_TIMEOUT_S)
            except BaseException:
                worker.kill()
                raise
            there = p.PictureProcess(address=reply.address, key=key)
            self._started[planned.python] = worker, there
        return there

    @property
    def pids(self) -> list[int]:
        """Return the ids of those that were started."""
        return [worker.pid for worker, _ in self._started.values()]

    def __enter__(self) -> PictureProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for worker, _ in self._started.values():
            worker.kill()


def _has_own(planned: PlannedCase) -> bool:
    try:
        return has_own_processor(read_artifact(planned.artifact).processor_home)
    except BadInputError:
        # Its worker says what is wrong.
        return False
