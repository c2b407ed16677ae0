"""An artifact on its way: its manifest, the hashes of its pieces, and what may be in it at all.

Nothing of it is code: names and bytes. Whoever receives it checks each name before a file is made, each piece before
it counts, and each file before the artifact is taken for one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.errors import BadInputError, one_line
from slmbench.models.artifact import GOLDEN_NAME, MANIFEST_NAME, Artifact, FileEntry, Manifest, parse_manifest

#: Bytes of a file that travel, are checked and, after a break, are sent again together.
PIECE_BYTES = 8 * 2**20
MAX_FILES = 10_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: A file and the number of a piece of it.
PieceKey = tuple[str, int]
#: What no system takes as a part of a path: Windows is the strictest.
_BAD_PART = re.compile(r'[<>:"|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
_LONGEST_PATH = 180


class Parcel(BaseModel):
    """What is sent before the first piece. :func:`opened` checks it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: ``manifest.json`` as it is on the sender's disk.
    manifest: str
    #: Hashes of each file's pieces, in order; of an empty file none.
    pieces: dict[str, tuple[Sha256, ...]]


class Content:
    """A parcel that was checked: every name may be a file here, and every size and hash fits the others."""

    def __init__(self, parcel: Parcel, manifest: Manifest) -> None:
        self.parcel, self.manifest = parcel, manifest
        self.sizes = {entry.path: entry.size_bytes for entry in manifest.files}

    @property
    def digest(self) -> str:
        """Return the SHA-256 over names, sizes and hashes of all files: what the parcel is called on its way."""
        return content_digest(self.manifest.files)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files together."""
        return sum(self.sizes.values())

    def piece_keys(self) -> Iterator[PieceKey]:
        """Yield every piece."""
        for path, hashes in self.parcel.pieces.items():
            yield from ((path, index) for index in range(len(hashes)))

    def length(self, key: PieceKey) -> int:
        """Return how many bytes a piece has."""
        path, index = key
        return min(PIECE_BYTES, self.sizes[path] - index * PIECE_BYTES)

    def fits(self, key: PieceKey, data: bytes) -> bool:
        """Return whether these are the bytes of the piece."""
        path, index = key
        return len(data) == self.length(key) and hashlib.sha256(data).hexdigest() == self.parcel.pieces[path][index]

    def read(self, folder: Path, key: PieceKey) -> bytes:
        """Return what a folder holds in the piece's place: less, or nothing, where the file is shorter or absent."""
        path, index = key
        try:
            with (folder / path).open("rb") as file:
                file.seek(index * PIECE_BYTES)
                return file.read(self.length(key))
        except FileNotFoundError:
            return b""


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the SHA-256 over the names, sizes and hashes of an artifact's files."""
    rows = sorted((entry.path, entry.size_bytes, entry.sha256) for entry in files)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def difference(one: tuple[FileEntry, ...], other: tuple[FileEntry, ...]) -> str | None:
    """Return the first file whose bytes differ, or None. Golden records do: their margins are the CPU's arithmetic."""
    first, second = ({e.path: e.sha256 for e in files if e.path != GOLDEN_NAME} for files in (one, other))
    return next((path for path in sorted({*first, *second}) if first.get(path) != second.get(path)), None)


def packed(artifact: Artifact) -> Content:
    """Return an artifact of this machine as it is offered to another one; reads all of it.

    Raises:
        BadInputError: it cannot be read, or has a name that not every system takes.
    """
    try:
        manifest = (artifact.folder / MANIFEST_NAME).read_text(encoding="utf-8")
        pieces = {entry.path: tuple(_hashes(artifact.folder / entry.path)) for entry in artifact.manifest.files}
    except OSError as error:
        raise BadInputError(f"{artifact.folder}: cannot be read: {error.strerror}") from error
    return opened(Parcel(manifest=manifest, pieces=pieces))


def opened(parcel: Parcel) -> Content:
    """Return a parcel's content.

    Raises:
        BadInputError: one line says what is wrong: a name, a size, a hash too many or too few.
    """
    manifest = parse_manifest(parcel.manifest.encode(), "what was sent")
    problem = _problem(manifest, parcel)
    if problem is not None:
        raise BadInputError(f"received data is not a valid artifact: {one_line(problem)[:300]}")
    return Content(parcel, manifest)


def parse(text: str) -> Content:
    """Return the content of a parcel that came as JSON.

    Raises:
        BadInputError: it is none.
    """
    try:
        return opened(Parcel.model_validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(map(str, first["loc"])))[:100]
        raise BadInputError(f"received data is not a valid artifact: {where}: {one_line(first['msg'])}") from error


def _problem(manifest: Manifest, parcel: Parcel) -> str | None:
    names = [entry.path for entry in manifest.files]
    if manifest.artifact_id != manifest.spec.artifact_id(manifest.checkpoint.digest):
        return f"{manifest.artifact_id} is not its id"
    if len(names) > MAX_FILES:
        return f"{len(names)} files, {MAX_FILES} at most are taken"
    bad = next(filter(None, map(_bad_name, names)), None) or _clash(names)
    if bad is not None:
        return bad
    missing = [name for name in (GOLDEN_NAME, *manifest.graphs.values()) if name not in names]
    if missing:
        return f"no {missing[0]} is in it"
    if set(parcel.pieces) != set(names):
        return "its pieces are of other files"
    for entry in manifest.files:
        if entry.size_bytes < 0 or len(parcel.pieces[entry.path]) != -(-entry.size_bytes // PIECE_BYTES):
            return f"{entry.path} has {entry.size_bytes} bytes in {len(parcel.pieces[entry.path])} pieces"
    return None


def _bad_name(name: str) -> str | None:
    path = PurePosixPath(name)
    plain = path.as_posix() == name and name != "." and len(name) <= _LONGEST_PATH
    if not plain or any(_BAD_PART.search(part) for part in path.parts):
        return f"'{name}' is no name of a file on every system"
    return "it has two manifests" if path.parts[0].lower() == MANIFEST_NAME else None


def _clash(names: list[str]) -> str | None:
    """Return which two names could not both be files: the same but for case, or one the folder of the other."""
    seen = {name.lower() for name in names}
    if len(seen) < len(names):
        return "two of its files have the same name"
    for name in seen:
        above = next((str(folder) for folder in PurePosixPath(name).parents if str(folder) in seen), None)
        if above is not None:
            return f"'{above}' is a file and a folder"
    return None


def _hashes(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while block := file.read(PIECE_BYTES):
            yield hashlib.sha256(block).hexdigest()
