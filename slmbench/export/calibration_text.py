"""The text that a recipe is calibrated with: the user's, kept in the cache under its digest, or slmbench's own.

A case's key and an artifact's id have the digest, so that another text is another artifact wherever the file lies.
Torch-free.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from slmbench.errors import CannotRunError
from slmbench.evaluation.text import QualityText, read_texts, shipped_text
from slmbench.export.recipes import OptimumRecipe
from slmbench.system.files import write_whole
from slmbench.system.paths import cache_dir

_DIGEST = re.compile("[0-9a-f]{16}")


def with_kept_text(recipe: str) -> str:
    """Return the recipe with the digest of its text instead of the file, which is copied into the cache.

    Raises:
        BadInputError: the file cannot be read, is not UTF-8, is empty, or has a line that is no text.
    """
    parts = OptimumRecipe.of(recipe)
    if parts is None or not parts.text or _DIGEST.fullmatch(parts.text):
        return recipe
    found = read_texts([Path(parts.text).expanduser()]).documents
    text = QualityText(tuple(replace(one, target=None) for one in found), parts.text)
    lines = [json.dumps({"text": one.text}, ensure_ascii=False) for one in text.documents]
    kept = _place(text.digest)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, "\n".join(lines) + "\n")
    return str(OptimumRecipe(parts.name, text.digest))


def calibration_text(recipe: str) -> QualityText:
    """Return the text that this recipe is calibrated with.

    Raises:
        CannotRunError: the user's is no longer in the cache.
    """
    parts = OptimumRecipe.of(recipe)
    if parts is None or not parts.text:
        return shipped_text()
    kept = _place(parts.text)
    if not kept.is_file():
        raise CannotRunError(f"--recipe {recipe}: that text is not in the cache ({kept}); name its file again")
    return QualityText(read_texts([kept]).documents, "your text")


def _place(digest: str) -> Path:
    return cache_dir() / "calibration" / f"{digest}.jsonl"
