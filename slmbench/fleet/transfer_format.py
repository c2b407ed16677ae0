"""What a client may send to a machine: an artifact, or a file that a request needs. Names and sizes, never code.

The receiver checks every name before it makes a file, every piece before it keeps it, and every file's hash before the
whole counts. Where to go on is its own file's length, so nothing has to be remembered over a kill on either side.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath

from pydantic import ValidationError

from slmbench.errors import BadInputError, one_line
from slmbench.models.artifact import GOLDEN_NAME, MANIFEST_NAME, Artifact, FileEntry, Manifest, parse_manifest
from slmbench.plan.sent_files import Carried
from slmbench.terms import StrictModel

#: Bytes of a file in one message.
PIECE_BYTES = 8 * 2**20
MAX_FILES = 1000
#: What no system takes as a part of a path: Windows is the strictest.
_BAD_PART = re.compile(r'[<>:"|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
_LONGEST_PATH = 180


class Parcel(StrictModel):
    """What goes with every piece: all that the receiver must know of the whole."""

    #: An artifact's ``manifest.json`` as it is on the sender's disk,
    manifest: str = ""
    #: or a file that a request needs.
    carried: Carried | None = None


def parcel_of(artifact: Artifact) -> Parcel:
    """Return an artifact of this machine as it is offered to another one.

    Raises:
        BadInputError: it cannot be read, or has a name that not every system takes.
    """
    try:
        text = (artifact.folder / MANIFEST_NAME).read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{artifact.folder}: cannot be read: {error.strerror}") from error
    checked_manifest(text)
    return Parcel(manifest=text)


def parse(text: str) -> Parcel:
    """Return a parcel that came as JSON. :func:`checked_manifest` checks what is in it.

    Raises:
        BadInputError: it is not one.
    """
    try:
        return Parcel.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(map(str, first["loc"])))[:100]
        raise BadInputError(f"received data is not valid: {where}: {one_line(first['msg'])}") from error


def checked_manifest(text: str) -> Manifest:
    """Return an artifact's manifest: every name may be a file here, and its id is that of what it describes.

    Raises:
        BadInputError: one line says what is wrong.
    """
    manifest = parse_manifest(text.encode(), "received data")
    problem = _problem(manifest)
    if problem is not None:
        raise BadInputError(f"received data is not a valid artifact: {one_line(problem)[:300]}")
    return manifest


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the SHA-256 over the names, sizes and hashes of an artifact's files."""
    rows = sorted((entry.path, entry.size_bytes, entry.sha256) for entry in files)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def difference(one: tuple[FileEntry, ...], other: tuple[FileEntry, ...]) -> str | None:
    """Return the first file whose bytes differ, or None. Golden records may: their margins are the CPU's arithmetic."""
    first, second = ({e.path: e.sha256 for e in files if e.path != GOLDEN_NAME} for files in (one, other))
    return next((path for path in sorted({*first, *second}) if first.get(path) != second.get(path)), None)


def _problem(manifest: Manifest) -> str | None:
    names = [entry.path for entry in manifest.files]
    if manifest.artifact_id != manifest.spec.artifact_id(manifest.checkpoint.digest):
        return f"{manifest.artifact_id} is not its id"
    if len(names) > MAX_FILES:
        return f"{len(names)} files; at most {MAX_FILES} are accepted"
    bad = next(filter(None, map(_bad_name, names)), None) or _clash(names)
    if bad is not None:
        return bad
    missing = [name for name in (GOLDEN_NAME, *manifest.graphs.values()) if name not in names]
    if missing:
        return f"{missing[0]} is missing"
    negative = next((entry for entry in manifest.files if entry.size_bytes < 0), None)
    return f"{negative.path} has {negative.size_bytes} bytes" if negative else None


def _bad_name(name: str) -> str | None:
    path = PurePosixPath(name)
    plain = path.as_posix() == name and name != "." and len(name) <= _LONGEST_PATH
    if not plain or any(_BAD_PART.search(part) for part in path.parts):
        return f"'{name}' is not a valid file name on every system"
    return "it has two manifests" if path.parts[0].lower() == MANIFEST_NAME else None


def _clash(names: list[str]) -> str | None:
    """Return which two names could not both be files: equal but for upper and lower case, or one inside the other."""
    seen = {name.lower() for name in names}
    if len(seen) < len(names):
        return "two of its files have the same name"
    for name in seen:
        above = next((str(folder) for folder in PurePosixPath(name).parents if str(folder) in seen), None)
        if above is not None:
            return f"'{above}' is a file and a folder"
    return None
