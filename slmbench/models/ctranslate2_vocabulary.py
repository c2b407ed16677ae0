"""The vocabulary of a CTranslate2 model: the text of each token id, and the ids that no text leads to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from slmbench.errors import BadInputError, last_error_line
from slmbench.system.files import read_regular

#: Files that hold a model's input tokens, the first that is there; older ones have one text a line.
VOCABULARIES = (
    "shared_vocabulary.json",
    "source_vocabulary.json",
    "vocabulary.json",
    "shared_vocabulary.txt",
    "source_vocabulary.txt",
    "vocabulary.txt",
)
_MOST_BYTES = 1 << 26


def read_vocabulary(folder: Path, size: int) -> list[str]:
    """Return the texts of the token ids of a model's input.

    Raises:
        BadInputError: there is no such file, it is damaged, has fewer than ``size`` texts, or most of them twice.
    """
    path = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    if path is None:
        raise BadInputError(f"{folder}: no vocabulary ({', '.join(VOCABULARIES)})")
    try:
        raw = read_regular(path, _MOST_BYTES).decode("utf-8")
        texts = json.loads(raw) if path.suffix == ".json" else raw.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: cannot be read: {last_error_line(error)}") from error
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise BadInputError(f"{path}: not a list of texts")
    different = len(set(texts[:size]))
    if len(texts) < size or 2 * different < size:
        raise BadInputError(f"{path}: {different} different texts for {size} token ids")
    return texts


def unfed_ids(texts: Sequence[str], size: int) -> tuple[int, ...]:
    """Return the ids that the engine cannot be fed: it takes texts, and the first id of a text that occurs twice.

    CTranslate2's converter fills a vocabulary up with ``<extra_id_0>``, ``<extra_id_1>``, ...; T5's has them already.
    """
    seen: set[str] = set()
    unfed = []
    for number, text in enumerate(texts[:size]):
        if text in seen:
            unfed.append(number)
        seen.add(text)
    return tuple(unfed)
