"""What machines and clients say to each other: JSON text, checked on both sides. Nothing here imports Dask.

The only thing that is not text are the bytes of files, sent to a machine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from slmbench.errors import CannotRunError, one_line
from slmbench.machine.devices import DeviceRow
from slmbench.machine.fingerprint import Fingerprint
from slmbench.models.artifact import ArtifactSpec, FileEntry
from slmbench.models.checkpoint import Checkpoint
from slmbench.records.without_folders import Message
from slmbench.terms import StrictModel

#: A machine's name, and a run's: both become folders.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
#: Bytes of samples in one answer, about.
CHUNK_BYTES = 1_000_000


class About(StrictModel):
    """What a machine says about itself."""

    slmbench_version: str
    name: Name
    fingerprint: Fingerprint
    devices: tuple[DeviceRow, ...]
    #: The run that it measures now, or what it exports.
    busy: str | None = None
    #: Of that run: cases done, cases, samples.
    progress: tuple[int, int, int] | None = None
    #: Cases of that run that no machine has yet and this one may get.
    waiting: int = Field(default=0, ge=0)

    def usable(self) -> dict[str, list[str]]:
        """Return the devices that a backend can use there, each with its backends."""
        found: dict[str, list[str]] = {}
        for row in self.devices:
            if row.available and row.backend and row.backend not in found.setdefault(row.device, []):
                found[row.device].append(row.backend)
        return found

    def doing(self) -> str:
        """Return in words what the machine is doing."""
        if self.busy is None:
            return "free"
        if self.progress is None:
            return f"busy with {self.busy}"
        done, cases, samples = self.progress
        rest = f", {self.waiting} more waiting" if self.waiting else ""
        return f"{done} of {cases} cases done, {samples} samples{rest}: run {self.busy[:8]}"


class Needed(StrictModel):
    """An artifact that cases need, and whether a machine has it or can make it."""

    checkpoint_digest: str
    spec: ArtifactSpec
    #: The cases.
    keys: tuple[str, ...]
    state: Literal["here", "makes", "lacks"]
    #: Why the machine cannot make it.
    why: Message = ""

    def artifact_id(self) -> str:
        """Return its name in every store."""
        return self.spec.artifact_id(self.checkpoint_digest)


class Planned(StrictModel):
    """The part of a request that a machine would measure."""

    keys: tuple[str, ...] = ()
    #: What it leaves out and why, one line each; or why it cannot run anything.
    left_out: tuple[Message, ...] = ()
    #: Which of the keys, by their places, are measured together.
    blocks: tuple[tuple[int, ...], ...] = ()
    #: Every artifact that the cases need.
    needs: tuple[Needed, ...] = ()

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        places = sorted(place for block in self.blocks for place in block)
        if len(set(self.keys)) != len(self.keys) or (self.blocks and places != list(range(len(self.keys)))):
            raise ValueError("the blocks do not hold every key once")
        return self

    def without(self, keys: Collection[str], reasons: Sequence[str]) -> Planned:
        """Return the plan without some cases; their blocks keep the rest."""
        kept = [place for place, key in enumerate(self.keys) if key not in keys]
        now = {place: index for index, place in enumerate(kept)}
        blocks = (tuple(now[place] for place in block if place in now) for block in self.blocks)
        return Planned(
            keys=tuple(self.keys[place] for place in kept),
            left_out=(*self.left_out, *reasons),
            blocks=tuple(filter(None, blocks)),
            needs=self.needs,
        )


class Wanted(StrictModel):
    """Asks whether a machine has an artifact; it should make it if it can."""

    checkpoint: Checkpoint
    spec: ArtifactSpec
    trust_remote_code: bool = False

    def artifact_id(self) -> str:
        """Return its name in every store."""
        return self.spec.artifact_id(self.checkpoint.digest)


class Holding(StrictModel):
    """Whether a machine has an artifact."""

    #: ``makes``: the export is under way. ``busy``: the machine measures or exports something else.
    state: Literal["here", "makes", "busy", "lacks"]
    #: If it is here: its files, and the versions that made it.
    files: tuple[FileEntry, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    #: Why it is missing: it cannot be made, or making it failed.
    why: Message = ""


class Receiving(StrictModel):
    """How much is missing of what is being sent, and where to continue."""

    #: ``refused``: it is not valid, or there is no room for it. ``busy``: ask again later.
    state: Literal["here", "wants", "busy", "refused"]
    missing_bytes: int = Field(default=0, ge=0)
    file: str = ""
    offset: int = Field(default=0, ge=0)
    #: The bytes did not match their hash; they were dropped.
    damaged: bool = False
    why: Message = ""


class PartBegun(StrictModel):
    """The answer to a request to start or continue a run."""

    #: Another run that has to end first; None if this one is under way.
    busy: str | None = None
    #: The machine no longer has what it measured of this run.
    absent: bool = False


class Progress(StrictModel):
    """What a machine has measured of a run, from an offset on."""

    state: Literal["running", "ended", "absent"]
    #: Whole lines of ``samples.jsonl`` from the offset, UTF-8.
    lines: str = ""
    #: Cases that are done and whose lines were all sent by now.
    done: tuple[str, ...] = ()
    #: ``run.json``: before the first line, and after the last one.
    run: str | None = None
    #: Why it failed, if it did.
    error: Message = ""


M = TypeVar("M", bound=StrictModel)


def checked(kind: type[M], raw: object, machine: str) -> M:
    """Return a machine's answer as what it should be.

    Raises:
        CannotRunError: it is not valid: what a worker sends is never trusted.
    """
    text = raw.get("json") if isinstance(raw, dict) else None
    if not isinstance(text, str):
        raise CannotRunError(f"machine {machine}: its answer is not from slmbench")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CannotRunError(
            one_line(f"machine {machine}: its answer is not valid: {where}: {first['msg']}")
        ) from error
