"""A machine's side of transfers: what it has of artifacts, what it makes, and what it receives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from slmbench.errors import BadInputError, SlmbenchError, one_line
from slmbench.export.artifact_store import (
    UNFINISHED,
    artifacts_dir,
    find_artifact,
    lock_of,
    move_into_place,
    write_manifest,
)
from slmbench.export.routes import outdated
from slmbench.fleet.leftovers import carried_lock
from slmbench.fleet.machine_job import cannot_make, start_job
from slmbench.fleet.messages import Holding, Receiving, Wanted
from slmbench.fleet.transfer_format import checked_manifest, content_digest, parse
from slmbench.models.artifact import Artifact, FileEntry, damage
from slmbench.plan.sent_files import PART, Carried
from slmbench.system.digests import sha256_of
from slmbench.system.processes import reason

#: Seconds to wait for another process that writes the same; the client asks again after that.
LOCK_S = 30.0


class Holder:
    """What this machine holds. ``busy`` names the run that is measured now, if there is one.

    ``allowed`` are arguments of the jobs: what the machine's owner allows them.
    """

    def __init__(self, busy: Callable[[], str | None], allowed: tuple[str, ...] = ()) -> None:
        self._allowed = allowed
        self._busy = busy
        self._maker: subprocess.Popen[bytes] | None = None
        self._made: Wanted | None = None
        self._log: IO[bytes] | None = None

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return what is answered, by operation."""
        return {"slmbench_artifact": self.artifact, "slmbench_receive": self.receive}

    def making(self) -> str | None:
        """Return what is exported now, if anything is."""
        if self._made is None or self._maker is None or self._maker.poll() is not None:
            return None
        return f"the export of {self._made.checkpoint.name} to {self._made.spec.label()}"

    async def artifact(self, wanted: str) -> dict[str, str]:
        """Answer with :class:`Holding`. If the artifact is missing and can be made here, making it starts."""
        return {"json": (await self._held(Wanted.model_validate_json(wanted))).model_dump_json()}

    async def receive(
        self, parcel: str, file: str = "", offset: int = 0, data: bytes = b"", sha256: str = ""
    ) -> dict[str, str]:
        """Answer with :class:`Receiving` to a piece, which is on the disk by then or was dropped.

        Without data it is a question: what is missing? Files of a request are accepted during a measurement as well:
        planning needs them, and disturbs no less.
        """
        try:
            one = _arriving(parcel)
            if isinstance(one, _ArrivingArtifact) and (self._busy() or self.making()):
                answer = Receiving(state="busy")
            else:
                answer = await asyncio.to_thread(_take, one, file, offset, data, sha256)
        except SlmbenchError as error:
            answer = Receiving(state="refused", why=one_line(str(error)))
        except Timeout:
            answer = Receiving(state="busy")
        except OSError as error:
            answer = Receiving(state="refused", why=one_line(f"{error.filename or artifacts_dir()}: {error.strerror}"))
        return {"json": answer.model_dump_json()}

    def close(self) -> None:
        """End an export that is under way."""
        if self._maker is not None and self._maker.poll() is None:
            self._maker.terminate()
            self._maker.wait()
        if self._log is not None:
            self._log.close()

    async def _held(self, wanted: Wanted) -> Holding:
        making, same = self.making(), self._made is not None and self._made.artifact_id() == wanted.artifact_id()
        if making is not None or self._busy() is not None:
            return Holding(state="makes" if making and same else "busy", why=making or "")
        found = await asyncio.to_thread(find_artifact, wanted.checkpoint, wanted.spec)
        if found is not None:
            return Holding(state="here", files=found.manifest.files, versions=found.manifest.versions)
        failed = self._failure() if same else None
        why = failed or await asyncio.to_thread(cannot_make, wanted.checkpoint, wanted.spec)
        if why is not None:
            return Holding(state="lacks", why=one_line(why))
        if self.making() is not None or self._busy() is not None:
            return Holding(state="busy", why=self.making() or "")
        self.close()
        # On no path that a client could name, and gone with this process.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the receiver)
        self._made = wanted
        self._maker = start_job("make", *self._allowed, asked=wanted.model_dump_json().encode(), log=self._log)
        return Holding(state="makes")

    def _failure(self) -> str | None:
        """Return why the last export failed, once: whoever asks again later has it tried again."""
        if self._maker is None or self._log is None or not (code := self._maker.poll()):
            return None
        self._log.seek(0)
        text = reason(self._log.read(), code)
        self._maker = self._made = None
        return f"could not be made there: {text}"


class _ArrivingFiles(ABC):
    """Files that arrive: what they have to be, where they grow, and where they go when they are complete."""

    def __init__(self, folder: Path, files: tuple[FileEntry, ...], lock: Path) -> None:
        self.folder, self.files, self.lock = folder, files, lock

    def path(self, entry: FileEntry) -> Path:
        """Return where a file grows."""
        return self.folder / entry.path

    @abstractmethod
    def is_here(self) -> bool:
        """Return whether everything is in its place."""

    @abstractmethod
    def finish(self) -> None:
        """Move everything into its place. The caller has the lock, and has checked every hash."""


class _ArrivingArtifact(_ArrivingFiles):
    """An artifact: it grows in a folder next to its place in the store, named after its content."""

    def __init__(self, text: str) -> None:
        self.text, self.manifest = text, checked_manifest(text)
        digest, self.place = content_digest(self.manifest.files), artifacts_dir() / self.manifest.artifact_id
        folder = self.place.with_name(f"{UNFINISHED}{self.place.name}-{digest[:32]}")
        super().__init__(folder, self.manifest.files, lock_of(self.place.name))

    def is_here(self) -> bool:
        model = self.manifest.checkpoint
        if find_artifact(model, self.manifest.spec) is not None:
            return True
        if model.is_here and (made := outdated(self.manifest)) is not None:
            raise BadInputError(f"made by {made}: this machine would export it again")
        return False

    def finish(self) -> None:
        if problem := damage(Artifact(self.folder, self.manifest), hashes=False):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise BadInputError(problem)
        write_manifest(self.folder, self.text.encode())
        move_into_place(self.folder, self.place)
        # Whoever writes this artifact has the lock: nothing else that was begun of it is needed.
        for leftover in self.place.parent.glob(f"{UNFINISHED}{self.place.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


class _File(_ArrivingFiles):
    """A file that a request needs: it grows next to its place in the cache."""

    def __init__(self, one: Carried) -> None:
        self.one = one
        entry = FileEntry(path=one.name, size_bytes=one.size_bytes, sha256=one.sha256)
        super().__init__(one.place.parent, (entry,), carried_lock(one.sha256))

    def path(self, entry: FileEntry) -> Path:
        return self.folder / f"{entry.path}{PART}"

    def is_here(self) -> bool:
        return self.one.is_here()

    def finish(self) -> None:
        self.path(self.files[0]).replace(self.one.place)


def _arriving(text: str) -> _ArrivingFiles:
    parcel = parse(text)
    return _File(parcel.carried) if parcel.carried else _ArrivingArtifact(parcel.manifest)


def _take(one: _ArrivingFiles, file: str, offset: int, data: bytes, sha256: str) -> Receiving:
    """Keep a piece if it fits where its file ends now, and return what is missing; nothing: put all into its place.

    Raises:
        BadInputError: it is refused.
        CannotRunError: a run measures what is in its place, damaged.
        OSError: the disk refuses it.
        Timeout: another process writes the same.
    """
    one.lock.parent.mkdir(parents=True, exist_ok=True)
    # Workers of one machine share the cache; each continues where the file ends then.
    with FileLock(one.lock, timeout=LOCK_S):
        if one.is_here():
            return Receiving(state="here")
        one.folder.mkdir(parents=True, exist_ok=True)
        damaged = bool(data) and hashlib.sha256(data).hexdigest() != sha256
        if data and not damaged:
            _append(one, file, offset, data)
        missing = {entry: entry.size_bytes - _size(one.path(entry)) for entry in one.files}
        short = sum(left for left in missing.values() if left > 0)
        free = shutil.disk_usage(one.folder).free
        if short > free:
            raise BadInputError(
                f"it needs {short / 1e6:.1f} MB more and {one.folder.parent} has {free / 1e6:.1f} MB free; "
                "`slmbench cache clean` there makes room"
            )
        for entry, left in missing.items():
            if left > 0:
                return Receiving(
                    state="wants",
                    missing_bytes=short,
                    file=entry.path,
                    offset=entry.size_bytes - left,
                    damaged=damaged,
                )
        for entry in one.files:
            path = one.path(entry)
            if not entry.size_bytes:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            if sha256_of(path) != entry.sha256:
                path.unlink()
                return Receiving(state="wants", missing_bytes=entry.size_bytes, file=entry.path, damaged=True)
        one.finish()
        return Receiving(state="here")


def _append(one: _ArrivingFiles, file: str, offset: int, data: bytes) -> None:
    entry = next((entry for entry in one.files if entry.path == file), None)
    if entry is None:
        raise BadInputError(f"'{one_line(file)[:200]}' is not one of its files")
    path = one.path(entry)
    if offset != _size(path) or offset + len(data) > entry.size_bytes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "ab") as to:
        to.write(data)
        to.flush()
        os.fsync(to.fileno())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
