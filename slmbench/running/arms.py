"""What the environments of a run are: the arms' interpreters, or this one; asked before anything is exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slmbench.errors import BadInputError, CannotRunError
from slmbench.running.worker_process import WorkerError, describe
from slmbench.worker.protocol import Described


def describe_arms(backends: Sequence[str], arms: Sequence[tuple[str, str]], folder: Path) -> dict[str, Described]:
    """Return by arm ("" for a run without arms) the engines' versions and the machine as its interpreter sees it.

    Raises:
        BadInputError: an interpreter cannot be started, has no slmbench, or one that speaks another protocol.
        CannotRunError: it dies, or none of the backends can run there.
    """
    pythons: list[tuple[str, str | None]] = [*arms] or [("", None)]
    found = {}
    for arm, python in pythons:
        which = f"--arm {arm}: " if arm else ""
        try:
            reported = describe(python, (), folder / "logs" / f"describe-{arm or 'run'}.log", backends=backends)
        except WorkerError as error:
            raise CannotRunError(f"{which}{error.message}") from error
        except BadInputError as error:
            raise BadInputError(f"{which}{error}") from error
        if arm and backends and all(name in reported.lacking for name in backends):
            reasons = "; ".join(dict.fromkeys(reported.lacking.values()))
            raise CannotRunError(f"{which}{python} (Python {reported.python}): {reasons}")
        found[arm] = reported
    return found
