"""Locks between processes: a folder has one run at a time, and what a run reads is not removed under it.

They are in the cache, not next to what they guard, and end with the process that holds them, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from slmbench.errors import BadInputError
from slmbench.system.paths import cache_dir

_USE = ".use"


def locks_dir() -> Path:
    """Return the folder of the locks. It may not exist yet."""
    return cache_dir() / "locks"


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Be the only run that writes into ``folder``, among the processes that share this cache.

    Raises:
        BadInputError: another one does.
    """
    with ExitStack() as stack:
        try:
            _hold(stack, _run_lock(folder))
        except Timeout:
            raise BadInputError(
                f"{folder}: another slmbench run is writing here; wait for it or choose another --out"
            ) from None
        yield


def is_measured_into(folder: Path) -> bool:
    """Return whether a living process holds the folder by :func:`only_run_in`."""
    path = _run_lock(folder)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _run_lock(folder: Path) -> Path:
    return locks_dir() / f"run-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.lock"


@contextmanager
def in_use(artifact_ids: Iterable[str]) -> Iterator[None]:
    """Hold artifacts: :func:`is_used` says so, here and to other processes, until this ends."""
    with ExitStack() as stack:
        for artifact_id in artifact_ids:
            path = locks_dir() / f"{artifact_id}.{os.getpid()}-{uuid.uuid4().hex[:8]}{_USE}"
            # After the lock is let go: Windows removes no open file.
            stack.callback(_forget, path)
            _hold(stack, path)
        yield


def is_used(artifact_id: str) -> bool:
    """Return whether a living process holds the artifact; what dead ones left is cleared away."""
    for path in locks_dir().glob(f"{artifact_id}.*{_USE}"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        _forget(path)
    return False


def _forget(path: Path) -> None:
    # Whoever looks later clears away what could not be removed now.
    with suppress(OSError):
        path.unlink()


def _hold(stack: ExitStack, path: Path) -> None:
    """Hold the lock until the stack ends. Where the cache cannot be written there is nobody to keep out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(FileLock(path, timeout=0))
    except Timeout:
        raise
    except OSError:
        return
