"""What the reference predicted, on disk: a row of log-probabilities for each judged position.

A row takes two bytes a token: log-probabilities are rounded to 65,536 steps between the row's largest and its smallest
(or 60 nats below the largest, which no sum notices). A step is some 0.0005 to 0.0009 nats, so that rounding adds less
than 4e-8 to a KL. Rows are read one at a time: no array of positions by vocabulary is ever in memory. Nor is the file
mapped: its pages would count as memory of the process that judges.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from slmbench.errors import BadInputError
from slmbench.evaluation.text import Window
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.files import sized_folders
from slmbench.system.locks import in_use, is_used
from slmbench.system.paths import cache_dir
from slmbench.terms import StrictModel

META_NAME, ROWS_NAME = "reference.json", "rows.bin"
_UNFINISHED = ".unfinished-"
_LEVELS = 65535
#: Log-probabilities this far below the largest are stored as this far below.
_DEPTH = 60.0
#: Of the layout of the files; part of their folder's name.
_LAYOUT = 1

Floats = NDArray[np.float64]


class JudgedWindow(StrictModel):
    """What the reference makes of one window."""

    #: The judged tokens, one for each row; its own answer where the text has none.
    target: tuple[int, ...]
    #: Its greedy tokens, after the window or as the answer to it.
    free: tuple[int, ...]
    #: The first of the window's rows.
    first_row: int


class ReferenceMeta(StrictModel):
    """``reference.json``."""

    vocabulary: int
    #: Tokens left out of every distribution: sessions never give them, and not all tell their logits.
    ends: tuple[int, ...]
    windows: tuple[JudgedWindow, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Prediction:
    """The reference's prediction at one position."""

    #: Log-probabilities ``[vocabulary]``; -inf for ends.
    logp: Floats
    top1: int
    #: -log p of the judged token, in nats, not rounded.
    loss: float


def row_type(vocabulary: int) -> np.dtype[Any]:
    """Return the type of a stored row."""
    return np.dtype(
        [("low", "<f4"), ("step", "<f4"), ("loss", "<f4"), ("top1", "<i4"), ("levels", "<u2", (vocabulary,))]
    )


def log_probabilities(logits: NDArray[np.floating[Any]], ends: Sequence[int]) -> Floats:
    """Return log softmax of ``[vocabulary]`` in float64, with ``ends`` at -inf."""
    found = np.array(logits, dtype=np.float64)
    found[list(ends)] = -np.inf
    found -= found.max()
    found -= np.log(np.exp(found).sum())
    return found


def store_row(into: Any, logits: NDArray[np.floating[Any]], target: int, ends: Sequence[int]) -> None:
    """Write one row (of :func:`row_type`)."""
    found = log_probabilities(logits, ends)
    into["top1"], into["loss"] = int(found.argmax()), -found[target]
    low = max(float(found[np.isfinite(found)].min()), float(found.max()) - _DEPTH)
    low32 = np.float32(low)
    step = np.float32(max(float(found.max()) - float(low32), 1e-6) / _LEVELS)
    into["low"], into["step"] = low32, step
    into["levels"] = np.clip(np.rint((np.maximum(found, low) - float(low32)) / float(step)), 0, _LEVELS)


class StoredReference:
    """A reference that is on disk."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            BadInputError: it is not whole.
        """
        try:
            self.meta = ReferenceMeta.model_validate_json((folder / META_NAME).read_bytes())
            rows = sum(len(one.target) for one in self.meta.windows)
            self._kind = row_type(self.meta.vocabulary)
            self._file = (folder / ROWS_NAME).open("rb", buffering=0)
            if (held := os.fstat(self._file.fileno()).st_size) < rows * self._kind.itemsize:
                raise ValueError(f"{ROWS_NAME} has {held} bytes, {rows * self._kind.itemsize} are expected")
        except (OSError, ValueError, ValidationError) as error:
            raise BadInputError(f"{folder}: not a whole reference; remove it: {str(error).splitlines()[0]}") from error

    def row(self, number: int) -> Prediction:
        """Return a row, its probabilities scaled to a sum of 1."""
        self._file.seek(number * self._kind.itemsize)
        stored = np.fromfile(self._file, self._kind, 1)[0]
        logp = stored["levels"].astype(np.float64)
        logp *= float(stored["step"])
        logp += float(stored["low"])
        logp[list(self.meta.ends)] = -np.inf
        logp -= np.log(np.exp(logp).sum())
        return Prediction(logp, int(stored["top1"]), float(stored["loss"]))


def place_of(checkpoint: Checkpoint, windows: Sequence[Window], versions: dict[str, str]) -> Path:
    """Return the folder in the cache for what this reference says of these windows."""
    parts = [_LAYOUT, checkpoint.digest, checkpoint.eos_token_ids, versions, [one.model_dump() for one in windows]]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return references_dir() / name


def references_dir() -> Path:
    """Return the folder of all references in the cache."""
    return cache_dir() / "references"


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Make a folder for a reference that is being written; what is left of it at the end is removed.

    Nobody else may look into it: what is said of a text is as private as the text.
    """
    folder = parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
    with in_use([folder.name]):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove what processes that were killed have left of the references that they wrote."""
    for folder in parent.glob(f"{_UNFINISHED}*"):
        if not is_used(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def stored_references() -> list[tuple[Path, int]]:
    """Return the folders of the references in the cache, and their bytes."""
    return sized_folders(references_dir())


def remove_references() -> None:
    """Remove every reference from the cache. A run that measures with one keeps its open file, or makes it again."""
    for folder, _ in stored_references():
        shutil.rmtree(folder, ignore_errors=True)


def is_stored(place: Path) -> bool:
    """Return whether a reference is there: it is moved into place as a whole."""
    return (place / META_NAME).exists()
