"""Files that a request needs on another machine: text prompts and the tokenizers that read them.

Each is known by its content. Client and machine keep them alike in the cache: ``carried/SHA256/NAME``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from slmbench.errors import BadInputError
from slmbench.system.digests import sha256_of
from slmbench.system.paths import cache_dir

#: The largest tokenizers known have about half of that.
MAX_CARRIED_BYTES = 64 * 2**20
#: What has not arrived whole ends with this.
PART = ".part"
FileName = Literal["prompts.txt", "prompts.jsonl", "tokenizer.json"]


class Carried(BaseModel):
    """A file by its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FileName
    size_bytes: int = Field(ge=1, le=MAX_CARRIED_BYTES)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: Of a tokenizer: the digest of its checkpoint.
    checkpoint: str | None = None

    @property
    def place(self) -> Path:
        """Return where it is on this machine, once it is here."""
        return carried_dir() / self.sha256 / self.name

    def is_here(self) -> bool:
        """Tell whether it is here with the right content."""
        try:
            return sha256_of(self.place) == self.sha256
        except OSError:
            return False


def carried_dir() -> Path:
    """Return the folder of the carried files. It may not exist yet."""
    return cache_dir() / "carried"


def keep(path: Path, name: FileName, checkpoint: str | None = None) -> Carried:
    """Copy a file to where it is carried from: the user's own may change meanwhile.

    Raises:
        BadInputError: it cannot be read, is empty or too large.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_CARRIED_BYTES:
            raise BadInputError(f"{path}: has {size:,} bytes; from 1 to {MAX_CARRIED_BYTES:,} can be sent to a fleet")
        one = Carried(name=name, size_bytes=size, sha256=sha256_of(path), checkpoint=checkpoint)
        if not one.is_here():
            one.place.parent.mkdir(parents=True, exist_ok=True)
            part = one.place.with_name(f"{name}.{os.getpid()}{PART}")
            shutil.copyfile(path, part)
            part.replace(one.place)
    except OSError as error:
        raise BadInputError(f"{error.filename or path}: {error.strerror}") from error
    return one


def arrived(one: Carried) -> Path:
    """Return where a carried file is.

    Raises:
        BadInputError: it is not on this machine, or was changed there.
    """
    if not one.is_here():
        raise BadInputError(f"{one.name} {one.sha256[:12]} is not in {carried_dir()}, or was changed; begin a new run")
    return one.place
