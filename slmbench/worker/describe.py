"""What an environment is: its versions and the machine as it sees it, told by a worker of that environment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slmbench.running.worker_process import Worker
from slmbench.worker import protocol as p

TIMEOUT_S = 300.0


def describe(
    python: str | None, distributions: Iterable[str], log: Path, *, backends: Iterable[str] = ()
) -> p.Described:
    """Return versions (slmbench, numpy, the given distributions and the backends', where installed), which of the
    backends cannot run there, and the machine's fingerprint.

    ``python`` is the interpreter of an arm, None for this one.

    Raises:
        BadInputError: the interpreter cannot be started, has no slmbench, or one that speaks another protocol.
        WorkerError: it failed.
    """
    wanted = tuple(dict.fromkeys(["slmbench", "numpy", *distributions]))
    with Worker(log, python=python) as worker:
        return worker.ask(p.Describe(distributions=wanted, backends=tuple(backends)), p.Described, TIMEOUT_S)
