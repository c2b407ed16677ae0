"""Copies of checkpoints that slmbench rewrote on request before it reads them: in the cache, each made once."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.system.digests import sha256_remembered
from slmbench.system.files import make_folder, write_whole
from slmbench.system.paths import cache_dir
from slmbench.system.processes import child_environment, reason

_RECORD = "converted.json"
#: Ends of the names of what belongs to a checkpoint besides its weights.
_KEPT = (".json", ".txt", ".model", ".spm", ".jinja")
_INDEXES = (".bin.index.json", ".safetensors.index.json")


def converted(
    folder: Path, weights: Sequence[Path], module: str, arguments: Sequence[str] = (), *, made_by: str = ""
) -> tuple[Path, dict[str, str]]:
    """Return a copy of a checkpoint with weights that ``module FROM TO ARGUMENT...`` wrote, and the old ones' hashes.

    ``made_by`` names versions that decide what comes out: another one makes another copy.

    Raises:
        BadInputError: the module, which runs in a process of its own, fails.
    """
    from filelock import FileLock

    hashes = {path.name: sha256_remembered(path) for path in weights}
    config = (folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b""
    key = hashlib.sha256(config + json.dumps([module, made_by, hashes]).encode()).hexdigest()[:32]
    target = cache_dir() / "converted" / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not (target / _RECORD).is_file():
            work = make_folder(target.parent, ".converting-")
            try:
                _convert(folder, work, [module, str(folder), str(work), *arguments])
                write_whole(work / _RECORD, json.dumps({"from": hashes}, indent=1))
                shutil.rmtree(target, ignore_errors=True)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return target, hashes


def _convert(folder: Path, work: Path, command: list[str]) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.suffix in _KEPT and not path.name.endswith(_INDEXES):
            shutil.copyfile(path, work / path.name)
    # -P: a folder named slmbench where the user stands is not the package.
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command], capture_output=True, check=False, env=child_environment()
    )
    if done.returncode != 0:
        raise BadInputError(f"{folder}: {reason(done.stderr, done.returncode)[:300]}")
