"""What a fleet's run leaves on the client's disk: ``fleet.json``, and a folder for each part of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from slmbench.errors import BadInputError, one_line
from slmbench.fleet.messages import About, Name, Needed
from slmbench.plan.request import RunRequest
from slmbench.records.schema import FLEET_NAME, SAMPLES_NAME
from slmbench.records.without_folders import Message
from slmbench.system.files import read_regular, write_whole

PART_NAME = "part.json"
R = TypeVar("R", bound=BaseModel)


class Member(BaseModel):
    """A machine of a fleet run: what it is, what it can run, how that ended."""

    model_config = ConfigDict(extra="forbid")

    about: About
    #: What it can run; of a kind of equal machines each measures a share of it.
    keys: tuple[str, ...]
    #: Which of the keys, by their places, are measured together.
    blocks: tuple[tuple[int, ...], ...] = ()
    left_out: tuple[Message, ...] = ()
    needs: tuple[Needed, ...] = ()
    #: None while under way; empty when all went well; else why it stopped.
    outcome: Message | None = None


class NotRun(BaseModel):
    """Cases that no machine of a kind has measured."""

    model_config = ConfigDict(extra="forbid")

    machines: tuple[Name, ...]
    keys: tuple[str, ...]
    reason: Message


class FleetRecord(BaseModel):
    """``fleet.json``: the machines of one run. What each measured is in ``machines/NAME/1``, ``2``, ...: runs."""

    model_config = ConfigDict(extra="forbid")

    run_id: Name
    request: RunRequest
    machines: dict[Name, Member]
    #: Whether each of several equal machines measures everything instead of a share.
    each_machine: bool = False
    #: Which machines were chosen, by name and by a device that must be usable there; also those that join later.
    chosen: tuple[Name, ...] = ()
    device: str | None = None
    #: When the run ended: what no machine measured.
    not_run: tuple[NotRun, ...] = ()


class Part(BaseModel):
    """``part.json``: the cases that a machine was given at once, and how that ended."""

    model_config = ConfigDict(extra="forbid")

    keys: tuple[str, ...]
    #: Cases that are done and whose samples are here.
    done: tuple[str, ...] = ()
    #: None while under way; empty when it ended well; else why it did not.
    outcome: Message | None = None


def machine_folder(folder: Path, name: str) -> Path:
    """Return the folder of a machine's parts of a fleet run."""
    return folder / "machines" / name


def part_folders(folder: Path, name: str) -> list[Path]:
    """Return the folders of a machine's parts in their order."""
    own = machine_folder(folder, name)
    return sorted((path.parent for path in own.glob(f"*/{PART_NAME}")), key=lambda path: (len(path.name), path.name))


def new_part(folder: Path, name: str, keys: tuple[str, ...]) -> tuple[Path, Part]:
    """Make the folder of a machine's next part: ``1``, ``2``, ..."""
    numbers = [int(path.name) for path in part_folders(folder, name) if path.name.isdecimal()]
    path, part = machine_folder(folder, name) / str(max(numbers, default=0) + 1), Part(keys=keys)
    path.mkdir(parents=True)
    write_part(path, part)
    return path, part


def write_part(folder: Path, part: Part) -> None:
    """Write ``part.json`` as a whole."""
    write_whole(folder / PART_NAME, part.model_dump_json() + "\n")


def read_part(folder: Path) -> Part:
    """Read ``part.json``.

    Raises:
        BadInputError: it is missing or damaged.
    """
    return _read(Part, folder / PART_NAME, "not a part of a fleet run")


def read_fleet(folder: Path) -> FleetRecord:
    """Read ``fleet.json``.

    Raises:
        BadInputError: it is missing or damaged.
    """
    return _read(FleetRecord, folder / FLEET_NAME, "not a fleet run")


def write_fleet_record(folder: Path, record: FleetRecord) -> None:
    """Write ``fleet.json`` as a whole."""
    write_whole(folder / FLEET_NAME, record.model_dump_json() + "\n")


def check_parts(folder: Path, record: FleetRecord) -> None:
    """Refuse to continue a run of an earlier slmbench, which kept no parts.

    Raises:
        BadInputError: it is one.
    """
    for name in record.machines:
        if (machine_folder(folder, name) / SAMPLES_NAME).exists():
            raise BadInputError(
                f"{machine_folder(folder, name)}: was measured by an earlier slmbench; it can be read and compared, "
                "but not resumed"
            )


def _read(kind: type[R], path: Path, what: str) -> R:
    try:
        return kind.model_validate_json(read_regular(path))
    except (OSError, ValidationError) as error:
        raise BadInputError(f"{path}: {what}: {one_line(str(error).splitlines()[0])}") from error
