"""The text that quality is measured on: from files or from the package, cut into windows of a checkpoint's tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slmbench.errors import BadInputError, amount
from slmbench.measure.text_prompts import PROMPT_KEYS, check_known, is_json_lines, read_text
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import StrictModel

#: Tokens of a window. Intervals come from how windows differ, so many short ones say more than few long ones in the
#: same time; shorter than this, most tokens would have little context.
WINDOW_TOKENS = 128
#: A document's last window may be shorter, but not shorter than this.
LEAST_TOKENS = 32
#: Windows taken of a text, evenly spread over it: enough to resample them, and minutes for a model of 135M.
MOST_WINDOWS = 32
#: Tokens generated freely after a window, until they differ from the reference's.
FREE_TOKENS = 16
#: Tokens of the reference's own answer, where an encoder-decoder is judged on it.
ANSWER_TOKENS = 48
_SHIPPED = "public-domain.jsonl"


@dataclass(frozen=True)
class Document:
    """A text, or a prompt with the answer that is wanted of it."""

    #: File, and line where it has several.
    source: str
    text: str
    target: str | None = None


@dataclass(frozen=True)
class QualityText:
    """All documents, in the order of the files."""

    documents: tuple[Document, ...]
    #: As people call it: the files' names, or "the text that comes with slmbench".
    name: str

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that name this text and how it is cut."""
        cut = [WINDOW_TOKENS, LEAST_TOKENS, MOST_WINDOWS, ANSWER_TOKENS]
        whole = json.dumps([cut, [[one.text, one.target] for one in self.documents]])
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Window(StrictModel):
    """Tokens that are read, and those that are predicted one after the other."""

    document: int
    window: int
    given: tuple[int, ...]
    #: None: the reference's own greedy answer.
    target: tuple[int, ...] | None
    #: Whether the free generation continues the text; else it answers what is given.
    continues: bool


WINDOWS: TypeAdapter[list[Window]] = TypeAdapter(list[Window])


def shipped_text() -> QualityText:
    """Return the text that comes with slmbench: passages in the public domain."""
    content = files("slmbench.evaluation").joinpath(_SHIPPED).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in content.splitlines()]
    found = tuple(Document(f"{_SHIPPED}:{number}", line["text"]) for number, line in enumerate(lines, 1))
    return QualityText(found, "the text that comes with slmbench")


def read_texts(paths: Sequence[Path]) -> QualityText:
    """Read plain files, a document each, and JSON lines, a document a line.

    A line is a string, or an object with one of ``text``, ``prompt``, ``question``, ``input``; with ``target`` it is a
    prompt, and the target is judged.

    Raises:
        BadInputError: a file cannot be read, is not UTF-8, is empty, or has a line that is none of these.
    """
    found: list[Document] = []
    for path in paths:
        content = read_text(path)
        if is_json_lines(path):
            found += _documents(path, content)
        elif content.strip():
            found.append(Document(str(path), content))
        else:
            raise BadInputError(f"{path}: no text in it")
    return QualityText(tuple(found), ", ".join(path.name for path in paths))


def _documents(path: Path, content: str) -> Iterator[Document]:
    lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise BadInputError(f"{path}: no text in it; one JSON line a document is expected")
    for number, line in lines:
        place = f"{path}:{number}"
        try:
            value: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{place}: not a JSON line: {error}") from error
        keyed = value if isinstance(value, dict) else {"text": value}
        key = next((key for key in PROMPT_KEYS if key in keyed), "text")
        target = keyed.get("target")
        wanted = None if target is None else _checked(target, place, "target")
        yield Document(place, _checked(keyed.get(key), place, key), wanted)


def _checked(value: Any, place: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadInputError(
            f"{place}: {key}: a text is expected: a string, or an object with one of {', '.join(PROMPT_KEYS)}, "
            "and with `target` where that is judged"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInputError(f"{place}: {key}: half of a character (\\ud800 to \\udfff), which is no text")
    return value


def windows_of(text: QualityText, tokenizer: Any, checkpoint: Checkpoint) -> list[Window]:
    """Return the windows of a text in a checkpoint's tokens; of more than :data:`MOST_WINDOWS` an even choice.

    ``tokenizer`` is a ``tokenizers.Tokenizer``. No window holds tokens of two documents.

    Raises:
        BadInputError: not one window comes out, or the tokenizer gives tokens that the model does not know.
    """
    before, after = _special_tokens(tokenizer)
    encoder_decoder = checkpoint.family == "encoder-decoder"
    room = _room(checkpoint) - len(before) - (len(after) if encoder_decoder else 0)
    size = min(WINDOW_TOKENS - len(before) - (len(after) if encoder_decoder else 0), room)
    found: list[tuple[int, list[int], list[int] | None]] = []
    for number, document in enumerate(text.documents):
        ids = tokenizer.encode(document.text, add_special_tokens=False).ids
        if document.target is not None:
            target = tokenizer.encode(document.target, add_special_tokens=False).ids[:ANSWER_TOKENS]
            if ids and target:
                found.append((number, ids[:room] if encoder_decoder else ids[: room - len(target)], target))
            continue
        pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
        found += [(number, piece, None) for piece in pieces if len(piece) >= min(LEAST_TOKENS, size)]
    if not found:
        tokens = sum(len(tokenizer.encode(one.text, add_special_tokens=False).ids) for one in text.documents)
        raise BadInputError(
            f"{text.name}: {tokens} tokens of {checkpoint.name} in {amount(len(text.documents), 'document')}; a window "
            f"takes at least {LEAST_TOKENS}"
        )
    step = max(1.0, len(found) / MOST_WINDOWS)
    chosen = [found[int(place * step)] for place in range(min(len(found), MOST_WINDOWS))]
    windows = [
        _window(place, document, [*before, *ids, *(after if encoder_decoder else ())], target, encoder_decoder, before)
        for place, (document, ids, target) in enumerate(chosen)
    ]
    check_known(checkpoint, (token for one in windows for token in one.given + (one.target or ())))
    return windows


def _window(
    place: int, document: int, ids: list[int], target: list[int] | None, encoder_decoder: bool, before: list[int]
) -> Window:
    if encoder_decoder or target is not None:
        wanted = None if target is None else tuple(target)
        return Window(document=document, window=place, given=tuple(ids), target=wanted, continues=False)
    # The first token of a text has nothing before it but what the tokenizer puts there.
    first = max(1, len(before))
    return Window(document=document, window=place, given=tuple(ids[:first]), target=tuple(ids[first:]), continues=True)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _room(checkpoint: Checkpoint) -> int:
    """Return how many tokens the model has positions for, the freely generated ones aside."""
    geometry = checkpoint.geometry
    bounds = [bound for bound in (geometry.max_input_tokens,) if bound is not None]
    if checkpoint.family == "decoder-only" and geometry.max_total_tokens is not None:
        bounds.append(geometry.max_total_tokens - FREE_TOKENS)
    return min(bounds, default=10**9)
