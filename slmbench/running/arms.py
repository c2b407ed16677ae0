"""What the environments of a run are: the arms' interpreters, or this one; asked before anything is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from slmbench.errors import BadInputError, CannotRunError, NotComparableError
from slmbench.machine.fingerprint import Fingerprint, differences
from slmbench.running.worker_process import WorkerError, describe
from slmbench.worker.protocol import Described


def describe_arms(backends: Sequence[str], arms: Sequence[tuple[str, str]], folder: Path) -> dict[str, Described]:
    """Return by arm ("" for a run without arms) the engines' versions and the machine as its interpreter sees it.

    Raises:
        BadInputError: an interpreter cannot be started, has no slmbench, or one that speaks another protocol.
        CannotRunError: it dies, or none of the backends can run there.
        NotComparableError: two arms see this machine differently (other cores, say).
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
    _check_alike(found)
    return found


def _check_alike(found: Mapping[str, Described]) -> None:
    """Refuse arms that see different hardware, before they are measured in full and then refused by `compare`."""
    try:
        machines = {arm: Fingerprint.model_validate(one.machine) for arm, one in found.items()}
    except ValidationError:
        # An engine's upgrade may come with another slmbench; `compare` says which machine cannot be read.
        return
    (base, first), *others = machines.items()
    for arm, machine in others:
        unlike = [str(one) for one in differences(first, machine) if one.hard and one.kind == "hardware"]
        if unlike:
            raise NotComparableError(
                f"--arm {base} and --arm {arm} see this machine differently ({'; '.join(unlike)}), "
                "so they could not be compared: start both interpreters alike, on the same cores"
            )
