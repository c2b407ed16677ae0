"""A machine's artifacts: what it has, makes, and receives in pieces. While it measures it does none of that."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from slmbench.errors import BadInputError, CannotRunError, SlmbenchError, one_line
from slmbench.export.artifact_store import (
    UNFINISHED,
    artifacts_dir,
    find_artifact,
    lock_of,
    move_into_place,
    write_manifest,
)
from slmbench.export.routes import outdated
from slmbench.fleet.machine_job import cannot_make, start_job
from slmbench.fleet.messages import Holding, Receiving, Wanted
from slmbench.fleet.transfer_format import PIECE_BYTES, Content, PieceKey, parse
from slmbench.models.artifact import Artifact, damage
from slmbench.system.processes import reason

#: Seconds that the end of a transfer waits for who writes the same artifact; the client asks again after that.
LOCK_S = 30.0


class Holder:
    """The artifacts of this machine. ``busy`` names the run that is measured now, if one is.

    ``allowed`` are arguments of the jobs that say what the machine's owner allows them.
    """

    def __init__(self, busy: Callable[[], str | None], allowed: tuple[str, ...] = ()) -> None:
        self._allowed = allowed
        self._busy = busy
        self._arriving: dict[str, Arriving] = {}
        self._lock = threading.Lock()
        self._maker: subprocess.Popen[bytes] | None = None
        self._made: Wanted | None = None
        self._log: IO[bytes] | None = None

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return what is answered, by operation."""
        return {"slmbench_artifact": self.artifact, "slmbench_offer": self.offer, "slmbench_piece": self.piece}

    def making(self) -> str | None:
        """Return what is exported now, if anything is."""
        if self._made is None or self._maker is None or self._maker.poll() is not None:
            return None
        return f"the export of {self._made.checkpoint.name} to {self._made.spec.label()}"

    async def artifact(self, wanted: str) -> dict[str, str]:
        """Answer with :class:`Holding`; what is lacking and can be made here is begun to be made."""
        return {"json": (await self._held(Wanted.model_validate_json(wanted))).model_dump_json()}

    async def offer(self, parcel: str) -> dict[str, str]:
        """Answer with :class:`Receiving` to a parcel: what of it is here, checked, and what is wanted first."""
        return {"json": (await self._unless_busy(lambda: self._offered(parcel))).model_dump_json()}

    async def piece(self, content: str, file: str, index: int, data: bytes) -> dict[str, str]:
        """Answer with :class:`Receiving` to a piece, which is on the disk by then, or was dropped."""
        return {"json": (await self._unless_busy(lambda: self._taken(content, (file, index), data))).model_dump_json()}

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
        self._make(wanted)
        return Holding(state="makes")

    def _make(self, wanted: Wanted) -> None:
        self.close()
        # On no path that a client could name, and gone with this process.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._made = wanted
        self._maker = start_job("make", *self._allowed, asked=wanted.model_dump_json().encode(), log=self._log)

    def _failure(self) -> str | None:
        """Return why the last export failed, once: whoever asks again later has it tried again."""
        if self._maker is None or self._log is None or not (code := self._maker.poll()):
            return None
        self._log.seek(0)
        text = reason(self._log.read(), code)
        self._maker = self._made = None
        return f"could not be made there: {text}"

    async def _unless_busy(self, work: Callable[[], Receiving]) -> Receiving:
        if self._busy() is not None or self.making() is not None:
            return Receiving(state="busy")
        try:
            return await asyncio.to_thread(work)
        except SlmbenchError as error:
            return Receiving(state="refused", why=one_line(str(error)))
        except Timeout:
            return Receiving(state="busy")
        except OSError as error:
            return Receiving(state="refused", why=one_line(f"{error.filename or artifacts_dir()}: {error.strerror}"))

    def _offered(self, text: str) -> Receiving:
        content = parse(text)
        if _is_here(content):
            return Receiving(state="here")
        model = content.manifest.checkpoint
        if model.is_here and (made := outdated(content.manifest)) is not None:
            raise BadInputError(f"made by {made}: this machine would export it again")
        with self._lock:
            arriving = self._arriving.setdefault(content.digest, Arriving(content))
        arriving.look()
        missing, free = arriving.missing_bytes(), shutil.disk_usage(artifacts_dir()).free
        if missing > free:
            raise BadInputError(
                f"it takes {missing / 1e6:.1f} MB more, {artifacts_dir()} has {free / 1e6:.1f} MB free; "
                "`slmbench cache clean` there frees some"
            )
        return self._next(arriving)

    def _taken(self, digest: str, key: PieceKey, data: bytes) -> Receiving:
        arriving = self._arriving.get(digest)
        if arriving is None:
            return Receiving(state="unknown")
        good = arriving.take(key, data)
        return self._next(arriving).model_copy(update={"damaged": not good})

    def _next(self, arriving: Arriving) -> Receiving:
        """Return what is wanted next; where nothing is, make it an artifact of the store."""
        key = arriving.next()
        if key is not None:
            return Receiving(state="wants", missing_bytes=arriving.missing_bytes(), file=key[0], index=key[1])
        with self._lock:
            try:
                problem = arriving.finish()
            except FileNotFoundError:
                # Another worker of this machine has just moved the same folder into place.
                problem = None if _is_here(arriving.content) else "its folder is gone"
            except CannotRunError as error:
                problem = str(error)
            self._arriving.pop(arriving.content.digest, None)
        return Receiving(state="here") if problem is None else Receiving(state="unknown", why=one_line(problem))


class Arriving:
    """A partial artifact: a folder next to its place in the store, named after its content."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.place = artifacts_dir() / content.manifest.artifact_id
        self.folder = self.place.with_name(f"{UNFINISHED}{self.place.name}-{content.digest[:32]}")
        self._lock = threading.Lock()
        self._missing: dict[PieceKey, None] = dict.fromkeys(content.piece_keys())
        #: Asked for and not here yet, the oldest first.
        self._asked: dict[PieceKey, None] = {}
        self._looked = False

    def look(self) -> None:
        """Find out by their hashes which pieces are here; once, what comes after is known."""
        with self._lock:
            if self._looked:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            for key in self.content.piece_keys():
                if self.content.fits(key, self.content.read(self.folder, key)):
                    del self._missing[key]
            self._looked = True

    def missing_bytes(self) -> int:
        """Return how many bytes are not here."""
        with self._lock:
            return sum(map(self.content.length, self._missing))

    def next(self) -> PieceKey | None:
        """Return a piece that is missing: one that nobody was asked for yet, else the one asked for longest ago."""
        with self._lock:
            fresh = next((key for key in self._missing if key not in self._asked), None)
            key = fresh or next(iter(self._asked), None)
            if key is not None:
                self._asked.pop(key, None)
                self._asked[key] = None
            return key

    def take(self, key: PieceKey, data: bytes) -> bool:
        """Put a piece onto the disk and return True, or drop it and return False: it is not what was announced.

        Raises:
            BadInputError: the artifact has no such piece.
        """
        if not 0 <= key[1] < len(self.content.parcel.pieces.get(key[0], ())):
            raise BadInputError(f"'{key[0][:200]}' has no piece {key[1]}")
        good = isinstance(data, bytes) and self.content.fits(key, data)
        if good and key in self._missing:
            self._write(key, data)
        with self._lock:
            self._asked.pop(key, None)
            if good:
                self._missing.pop(key, None)
        return good

    def finish(self) -> str | None:
        """Check all files once more and move them into the store. Returns what is wrong, after throwing them away.

        Raises:
            CannotRunError: a run measures what lies there, damaged.
            Timeout: another process writes the same artifact.
        """
        for path, size in self.content.sizes.items():
            if size == 0:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).touch()
        problem = damage(Artifact(self.folder, self.content.manifest), hashes=True)
        if problem is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return problem
        write_manifest(self.folder, self.content.parcel.manifest.encode())
        with FileLock(_lock_file(self.place.name), timeout=LOCK_S):
            if not _is_here(self.content):
                move_into_place(self.folder, self.place)
            # Whoever writes this artifact holds the lock: what else was begun of it is rubbish.
            for leftover in self.place.parent.glob(f"{UNFINISHED}{self.place.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return None

    def _write(self, key: PieceKey, data: bytes) -> None:
        path = self.folder / key[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
            file.seek(key[1] * PIECE_BYTES)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _is_here(content: Content) -> bool:
    return find_artifact(content.manifest.checkpoint, content.manifest.spec) is not None


def _lock_file(artifact_id: str) -> Path:
    path = lock_of(artifact_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
