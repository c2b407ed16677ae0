"""The artifact store: a folder of artifacts in the user's cache, each named by what it is.

An artifact is complete or absent: it is written next to its final place and renamed into it, manifest last.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from slmbench.errors import BadInputError, CannotRunError
from slmbench.export.compiled_copies import compiled_dir, remove_compiled
from slmbench.export.routes import outdated
from slmbench.models.artifact import MANIFEST_NAME, Artifact, ArtifactSpec, damage, read_artifact
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.files import bytes_in, write_whole
from slmbench.system.locks import is_used, locks_dir
from slmbench.system.paths import cache_dir

#: Folders of the store that are being written start with this.
UNFINISHED = ".writing-"
#: A transfer from a fleet's client is named after its content as well.
_TRANSFER = re.compile(r"-[0-9a-f]{32}$")


def artifacts_dir() -> Path:
    """Return the store's folder. It may not exist yet."""
    return cache_dir() / "artifacts"


def lock_of(artifact_id: str) -> Path:
    """Return the lock file of an artifact: who holds it writes or removes it."""
    return locks_dir() / f"{artifact_id}.lock"


@dataclass(frozen=True)
class Stored:
    """One folder of the store, whole or not."""

    folder: Path
    size_bytes: int
    #: None where the manifest cannot be read.
    artifact: Artifact | None
    #: What is wrong with it; None when nothing was found.
    problem: str | None
    #: False where this user may not read it: nobody knows whether it is whole.
    readable: bool = True
    #: Of what engines compiled of it.
    compiled_bytes: int = 0

    @property
    def unfinished(self) -> bool:
        """Return whether it is being written, or was when the writer was killed; the next export removes the latter."""
        return self.folder.name.startswith(UNFINISHED)

    @property
    def transfer(self) -> bool:
        """Return whether a part of it came from a fleet's client."""
        return self.problem == "received in part"

    @property
    def lock(self) -> Path:
        """Return the lock that its writer holds."""
        return lock_of(self.folder.name.removeprefix(UNFINISHED).split("-")[0])

    def summary(self) -> dict[str, Any]:
        """Return what a listing shows of it."""
        manifest = self.artifact.manifest if self.artifact else None
        return {
            "id": self.folder.name,
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "compiled_bytes": self.compiled_bytes,
            "checkpoint": manifest.checkpoint.name if manifest else "?",
            "label": manifest.spec.label() if manifest else "?",
            "created": manifest.created if manifest else "?",
            "versions": manifest.versions if manifest else {},
            "problem": self.problem,
        }


def write_manifest(folder: Path, text: bytes) -> None:
    """Write an artifact's manifest, the last of its files, onto the disk itself."""
    write_whole(folder / MANIFEST_NAME, text)


def move_into_place(folder: Path, place: Path) -> None:
    """Rename the finished folder; what was there before goes only when the new one is ready.

    Raises:
        CannotRunError: a run measures what is there.
    """
    if place.exists():
        refuse_if_measured(place)
        remove_compiled(compiled_dir(place.name))
        old = place.with_name(f"{UNFINISHED}{place.name}-old-{os.getpid()}")
        place.rename(old)
        folder.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(place)


def refuse_if_measured(place: Path) -> None:
    """Let nobody replace an artifact that a run loads again and again: it would measure two things as one.

    Raises:
        CannotRunError: one does.
    """
    if place.exists() and is_used(place.name):
        raise CannotRunError(f"{place}: another slmbench measures it; let that end, then export again")


def find_artifact(
    checkpoint: Checkpoint, spec: ArtifactSpec, *, note: Callable[[str], None] | None = None, hashes: bool = True
) -> Artifact | None:
    """Return the stored artifact if it is whole and of the installed exporters' versions, else None.

    Sizes are looked at each time, hashes once a process (and again when a file changes), or not at all.
    ``note`` gets the reason why a stored artifact is not used. Of a checkpoint whose files are not on this machine,
    what was received is used, no matter what made it: it cannot be exported again here.

    Raises:
        CannotRunError: it is there, and this user may not read it.
    """
    folder = artifacts_dir() / spec.artifact_id(checkpoint.digest)
    if (closed := _closed_to_us(folder)) is not None:
        raise CannotRunError(f"{closed}: permission denied; the artifact may be whole, but not for this user")
    if not (folder / MANIFEST_NAME).is_file():
        return None
    try:
        artifact = read_artifact(folder)
        reason = damage(artifact, hashes=False)
        if reason is None and hashes:
            reason = _damage_by_hash(folder, artifact.stamp)
    except (BadInputError, OSError) as error:
        reason = str(error)
    else:
        if reason is None and artifact.manifest.artifact_id != folder.name:
            reason = f"{folder} holds another artifact ({artifact.manifest.artifact_id})"
        made = outdated(artifact.manifest) if reason is None and checkpoint.is_here else None
        if reason is None and made is None:
            return artifact
        if made is not None and note is not None:
            note(f"the stored artifact was made by {made}; exporting again")
            return None
    if note is not None:
        note(f"the stored artifact is damaged: {reason}{'; exporting again' if checkpoint.is_here else ''}")
    return None


def list_artifacts(*, hashes: bool = False) -> list[Stored]:
    """Return what the store holds, unfinished folders included, largest first."""
    return sorted((_look_at(folder, hashes) for folder in _folders()), key=lambda s: s.size_bytes, reverse=True)


def select(ids: Sequence[str], *, everything: bool = False, damaged: bool = False) -> list[Stored]:
    """Return the stored artifacts that are meant: by the start of their ids, the damaged ones, or all.

    Raises:
        BadInputError: nothing is asked for, or an id that fits none or several.
    """
    if not (ids or everything or damaged):
        raise BadInputError(
            "say what to remove: --compiled, --damaged, --fleet, --references, --all, or ids from `slmbench cache list`"
        )
    stored = list_artifacts(hashes=damaged)
    if everything:
        return stored
    chosen = {item.folder: item for item in stored if damaged and item.problem and item.readable}
    for start in ids:
        fitting = [item for item in stored if item.folder.name == start] or [
            item for item in stored if item.folder.name.startswith(start)
        ]
        if len(fitting) != 1:
            raise BadInputError(
                f"'{start}' fits {len(fitting)} artifacts in the cache; `slmbench cache list` shows them"
            )
        chosen[fitting[0].folder] = fitting[0]
    return list(chosen.values())


def remove(stored: list[Stored]) -> list[Stored]:
    """Remove the folders, and what engines compiled of them; return those that are gone.

    What another process is writing or measuring stays.

    Raises:
        BadInputError: a folder outside the store, or one that cannot be removed.
    """
    gone = []
    for item in stored:
        if item.folder.parent != artifacts_dir():
            raise BadInputError(f"{item.folder} is not in the artifact store")
        item.lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(item.lock, timeout=0):
                if is_used(item.folder.name):
                    continue
                if item.folder.exists():
                    shutil.rmtree(item.folder)
                remove_compiled(compiled_dir(item.folder.name))
        except Timeout:
            continue
        except OSError as error:
            raise BadInputError(f"{item.folder}: cannot be removed: {error.strerror}") from error
        gone.append(item)
    return gone


def _folders() -> Iterator[Path]:
    store = artifacts_dir()
    if store.is_dir():
        yield from (folder for folder in store.iterdir() if folder.is_dir())


def _closed_to_us(folder: Path) -> Path | None:
    """Return what of an artifact this user may not read; None where that is nothing."""
    for path in (folder, *folder.rglob("*")):
        try:
            if path.is_file():
                path.open("rb").close()
            elif path.is_dir():
                next(path.iterdir(), None)
        except PermissionError:
            return path
    return None


def _look_at(folder: Path, hashes: bool) -> Stored:
    if (closed := _closed_to_us(folder)) is not None:
        return Stored(folder, 0, None, f"unknown: {closed}: permission denied", readable=False)
    size = bytes_in(folder)
    if folder.name.startswith(UNFINISHED):
        kind = "received in part" if _TRANSFER.search(folder.name) else "unfinished export"
        return Stored(folder, size, None, kind)
    try:
        artifact = read_artifact(folder)
    except BadInputError as error:
        return Stored(folder, size, None, str(error))
    compiled = bytes_in(compiled_dir(folder.name))
    return Stored(folder, size, artifact, damage(artifact, hashes=hashes), compiled_bytes=compiled)


# The stamp is part of the key: files that were changed are looked at again.
@lru_cache(maxsize=1024)
def _damage_by_hash(folder: Path, stamp: str) -> str | None:
    return damage(read_artifact(folder), hashes=True)
