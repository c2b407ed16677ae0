"""Text prompts from a file, and the tokenizer that a checkpoint brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmbench.errors import BadInputError
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.files import read_regular

#: Keys under which JSON lines are known to carry a prompt.
PROMPT_KEYS = ("prompt", "text", "question", "input")
MAX_PROMPTS = 10_000
MAX_BYTES = 50_000_000


@dataclass(frozen=True)
class Prompts:
    """Texts in the order of the file. Samples take them in turn."""

    path: Path
    texts: tuple[str, ...]
    #: The folder of the tokenizer.json that reads them for each checkpoint.
    tokenizers: Mapping[Checkpoint, Path] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name this very set of texts."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:8]


def read_prompts(path: Path) -> Prompts:
    """Read prompts: one a line (``.txt`` and others), or JSON lines with a string or an object a line (``.jsonl``).

    Raises:
        BadInputError: not readable, too large, not UTF-8, no prompts, or a line without one; with its number.
    """
    # At line ends alone: a prompt may hold other characters at which Python splits, as U+2028.
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise BadInputError(f"{path}: no prompts in it; one prompt a line is expected")
    if len(numbered) > MAX_PROMPTS:
        raise BadInputError(f"{path}: {len(numbered):,} prompts; at most {MAX_PROMPTS:,} are taken")
    as_json = is_json_lines(path)
    return Prompts(path, tuple(_from_json(path, n, line) if as_json else line.strip() for n, line in numbered))


def read_text(path: Path) -> str:
    """Return a text file of the user.

    Raises:
        BadInputError: not readable, too large, or not UTF-8.
    """
    try:
        raw = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    try:
        # Windows' editors write a mark at the beginning.
        found = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if "\0" in found:
        raise BadInputError(f"{path}: not UTF-8 text but holds NULs, as UTF-16 does (character {found.index(chr(0))})")
    return found


def is_json_lines(path: Path) -> bool:
    """Tell by its name whether a file of prompts holds JSON lines."""
    return path.suffix in {".jsonl", ".ndjson", ".json"}


def _from_json(path: Path, number: int, line: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}:{number}: not a JSON line: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in PROMPT_KEYS if isinstance(value.get(key), str)), None)
    if not isinstance(value, str) or not value.strip():
        raise BadInputError(
            f"{path}:{number}: no prompt: a string, or an object with one of {', '.join(PROMPT_KEYS)}, is expected"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInputError(f"{path}:{number}: half of a character (\\ud800 to \\udfff), which is no text")
    return value


def load_tokenizer(folder: Path) -> Any:
    """Return the ``tokenizers.Tokenizer`` of the ``tokenizer.json`` in ``folder``, which reads a text in full.

    Raises:
        BadInputError: there is none, or it is damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInputError(
            f"{folder}: no tokenizer.json, so text prompts cannot be read; "
            "save one with AutoTokenizer.from_pretrained(...).save_pretrained(...), or leave --prompts out"
        )
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a damaged file
        raise BadInputError(f"{path}: not a tokenizer: {str(error).splitlines()[0]}") from error
    # Many files keep the length that the model was trained with: it would cut the user's text, and say nothing.
    found.no_truncation()
    found.no_padding()
    return found


def check_known(checkpoint: Checkpoint, ids: Iterable[int], place: str = "") -> None:
    """Refuse tokens that the model has no embedding for: an engine would end with an error of its own, or read others.

    ``place`` says where the text is, as in ``" (line 3)"``.

    Raises:
        BadInputError: there is such a token.
    """
    largest, known = max(ids, default=-1), checkpoint.geometry.vocab_size
    if largest >= known:
        raise BadInputError(
            f"{checkpoint.name}: its tokenizer gives token {largest}{place}, but the model knows {known:,} tokens; "
            "it is the tokenizer of another model"
        )


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of ``text`` with the special tokens the tokenizer adds (``</s>`` for T5)."""
    return list(tokenizer.encode(text).ids)
