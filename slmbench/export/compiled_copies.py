"""What engines compiled: copies of weights in the cache that make later loads sooner, a folder for each artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.system.files import sized_folders
from slmbench.system.locks import is_used
from slmbench.system.paths import cache_dir


def compiled_dir(artifact_id: str) -> Path:
    """Return the folder in which engines keep what they compile of an artifact. It may not exist yet."""
    return _all_compiled() / artifact_id


def compiled_folders() -> list[tuple[Path, int]]:
    """Return the folders with what was compiled, and their bytes, largest first."""
    return sized_folders(_all_compiled())


def remove_compiled(folder: Path) -> bool:
    """Remove what was compiled of one artifact, if there is any; return False where a run uses it.

    Raises:
        BadInputError: it cannot be removed.
    """
    if is_used(folder.name):
        return False
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be removed: {error.strerror}") from error
    return True


def _all_compiled() -> Path:
    return cache_dir() / "engines"
