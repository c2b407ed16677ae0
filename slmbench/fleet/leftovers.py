"""What fleets leave in this machine's cache apart from artifacts: files of requests, and runs not fetched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from slmbench.errors import BadInputError
from slmbench.plan.sent_files import PART, carried_dir
from slmbench.system.digests import sha256_of
from slmbench.system.files import bytes_in
from slmbench.system.locks import is_measured_into, locks_dir
from slmbench.system.paths import cache_dir

Kind = Literal["carried file", "carried file, in part", "run of a client"]


@dataclass(frozen=True)
class Left:
    """One folder that a fleet left: of a file that was sent, or of a run that no client has fetched completely."""

    folder: Path
    kind: Kind
    #: A file's name and the start of its hash, or machine and run.
    name: str
    size_bytes: int
    #: Seconds since anything in it changed.
    age_s: float
    #: What is wrong with it, if that was checked.
    problem: str | None = None

    def summary(self) -> dict[str, str | int | None]:
        """Return what a listing shows of it."""
        return {
            "id": self.folder.name,
            "kind": self.kind,
            "name": self.name,
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "age_s": round(self.age_s),
            "problem": self.problem,
        }


def list_left(*, hashes: bool = False) -> list[Left]:
    """Return what fleets left, largest first; with hashes, files that were changed have a problem."""
    found = [_look(folder, kind, name, hashes) for folder, kind, name in (*_carried(), *_runs())]
    return sorted(found, key=lambda one: one.size_bytes, reverse=True)


def remove_left(left: list[Left]) -> list[Left]:
    """Remove the folders and return those that are gone. A run or a transfer that is under way stays.

    Raises:
        BadInputError: one cannot be removed.
    """
    gone = []
    for one in left:
        if one.kind == "run of a client" and is_measured_into(one.folder / "run"):
            continue
        locks_dir().mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(carried_lock(one.folder.name), timeout=0):
                shutil.rmtree(one.folder)
        except Timeout:
            continue
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BadInputError(f"{one.folder}: cannot be removed: {error.strerror}") from error
        gone.append(one)
    return gone


def carried_lock(name: str) -> Path:
    """Return the lock of a carried file's folder: whoever has it may write or remove the folder."""
    return locks_dir() / f"carried-{name}.lock"


def _carried() -> Iterator[tuple[Path, Kind, str]]:
    for folder in _folders(carried_dir()):
        names = sorted(path.name for path in folder.iterdir())
        whole = [name for name in names if not name.endswith(PART)]
        kind: Kind = "carried file" if whole else "carried file, in part"
        yield folder, kind, f"{', '.join(whole or names)} {folder.name[:12]}".strip()


def _runs() -> Iterator[tuple[Path, Kind, str]]:
    for machine in _folders(cache_dir() / "fleet"):
        for folder in _folders(machine):
            yield folder, "run of a client", f"{machine.name} {folder.name}"


def _folders(above: Path) -> list[Path]:
    return [folder for folder in above.iterdir() if folder.is_dir()] if above.is_dir() else []


def _look(folder: Path, kind: Kind, name: str, hashes: bool) -> Left:
    stats = [path.stat() for path in (folder, *folder.rglob("*")) if path.exists()]
    size = bytes_in(folder)
    newest = max((one.st_mtime for one in stats), default=time.time())
    whole = [path for path in folder.iterdir() if hashes and kind == "carried file" and not path.name.endswith(PART)]
    damaged = [path.name for path in whole if sha256_of(path) != folder.name]
    problem = f"{damaged[0]} was changed" if damaged else None
    return Left(folder, kind, name, size, max(0.0, time.time() - newest), problem)
