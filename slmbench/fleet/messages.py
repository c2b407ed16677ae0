"""What machines and clients say to each other: JSON text, checked on both sides. Nothing here imports Dask."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.errors import CannotRunError, one_line
from slmbench.machine.devices import DeviceRow
from slmbench.machine.fingerprint import Fingerprint

#: A machine's name, and a run's: both become folders.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
#: Bytes of samples in one answer.
CHUNK_BYTES = 1_000_000


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class About(_Message):
    """What a machine announces."""

    slmbench_version: str
    name: Name
    fingerprint: Fingerprint
    devices: tuple[DeviceRow, ...]
    #: The run that is measured there now.
    busy: str | None = None

    def usable(self) -> dict[str, list[str]]:
        """Return the devices that a backend can use there, each with its backends."""
        found: dict[str, list[str]] = {}
        for row in self.devices:
            if row.available and row.backend and row.backend not in found.setdefault(row.device, []):
                found[row.device].append(row.backend)
        return found


class Planned(_Message):
    """What of a request a machine would measure."""

    keys: tuple[str, ...] = ()
    #: What it leaves out and why, one line each; or why it can run nothing.
    left_out: tuple[str, ...] = ()


class Begun(_Message):
    """The answer to the wish to begin (or go on with) a run."""

    #: Another run that must end first; None when this one is under way.
    busy: str | None = None


class Progress(_Message):
    """What a machine has measured of a run, from an offset on."""

    state: Literal["running", "ended", "absent"]
    #: Whole lines of ``samples.jsonl`` from the offset, UTF-8.
    lines: str = ""
    #: ``run.json``: before the first line, and when it has ended and every line was given.
    run: str | None = None
    #: Why it ended, where it failed.
    error: str = ""


M = TypeVar("M", bound=_Message)


def checked(kind: type[M], raw: object, machine: str) -> M:
    """Return a machine's answer as what it should be.

    Raises:
        CannotRunError: it is anything else; what a worker sends is data, never trusted.
    """
    text = raw.get("json") if isinstance(raw, dict) else None
    if not isinstance(text, str):
        raise CannotRunError(f"machine {machine}: its answer is not one of slmbench's")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CannotRunError(
            one_line(f"machine {machine}: its answer is not valid: {where}: {first['msg']}")
        ) from error
