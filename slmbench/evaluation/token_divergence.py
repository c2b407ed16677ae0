"""One window on one session: each next token's distribution against the reference's, and a free generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.backend import (
    Draws,
    FreesMemory,
    GivesAnswerLogits,
    GivesChunkLogits,
    GivesLogits,
    LoopSession,
    Session,
    Tokens,
)
from slmbench.errors import CannotRunError
from slmbench.evaluation.stored_reference import Floats, JudgedWindow, Prediction, StoredReference, log_probabilities
from slmbench.evaluation.text import WINDOWS, Window
from slmbench.records.quality import WindowFigures
from slmbench.terms import Family

#: A loop of an engine's own reads everything before a token again to give it, so only every so many are judged.
LOOP_STRIDE = 8
#: Log-probabilities below this count as this: a token that an engine rules out would make the KL infinite.
_LEAST_LOGP = -100.0


@lru_cache(maxsize=1)
def _opened(reference: Path, windows: Path) -> tuple[StoredReference, list[Window]]:
    return StoredReference(reference), WINDOWS.validate_json(windows.read_bytes())


def start_judging(session: Session | LoopSession, reference: Path, windows_file: Path) -> None:
    """Have a session give back what the windows do not need: a text that is fed token by token has no long prompt.

    Raises:
        CannotRunError: the engine fails.
    """
    if isinstance(session, FreesMemory):
        _, windows = _opened(reference, windows_file)
        session.free_memory(max(len(window.given) for window in windows))


def judge_window(
    session: Session | LoopSession, reference: Path, windows_file: Path, number: int, family: Family
) -> WindowFigures:
    """Judge one window against the reference in a folder. The session is reserved for the longest of all windows.

    Raises:
        CannotRunError: the engine fails, or lets nobody feed it an answer.
        BadInputError: the shape is beyond what the artifact takes.
    """
    stored, windows = _opened(reference, windows_file)
    window, judged = windows[number], stored.meta.windows[number]
    chunked = isinstance(session, GivesChunkLogits) and family == "decoder-only"
    own_loop = not isinstance(session, Session)
    _reserve(session, stored, windows, whole=chunked or (own_loop and family == "decoder-only"))
    if isinstance(session, Draws):
        session.draw(None)
    if isinstance(session, GivesAnswerLogits):
        prompt, answer = np.array([window.given], np.int64), np.array([judged.target], np.int64)
        logits: Iterable[NDArray[Any]] = session.answer_logits(prompt, answer)
    elif not isinstance(session, Session):
        return _judge_loop(session, stored, window, judged, family)
    elif isinstance(session, GivesChunkLogits) and chunked:
        first = len(window.given) - 1
        logits = islice(session.chunk_logits(_ids(window, judged, len(judged.target) - 1)), first, None)
    elif isinstance(session, GivesLogits):
        logits = (session.logits()[0] for _ in _forced(session, window, judged))
    else:
        top1 = [int(given[0]) for given in _forced(session, window, judged)]
        free = _diverged_at(session, window, judged, chunked=False)
        return _tokens_only(stored, judged, dict(enumerate(top1)), free)
    kl, same, loss, known = [], 0, 0.0, 0.0
    for place, own in enumerate(logits):
        row = stored.row(judged.first_row + place)
        if own.size != row.logp.size:
            raise CannotRunError(f"the engine gives logits of {own.size} tokens, the reference of {row.logp.size}")
        found = log_probabilities(own, stored.meta.ends)
        same += int(found.argmax()) == row.top1
        np.maximum(found, _LEAST_LOGP, out=found)
        kl.append(divergence(row, found))
        loss -= float(found[judged.target[place]])
        known += row.loss
    return WindowFigures(
        tokens=len(kl),
        kl=tuple(kl),
        same_top1=same,
        artifact_loss=loss,
        reference_loss=known,
        free_tokens=len(judged.free),
        diverged_at=_diverged_at(session, window, judged, chunked=chunked)
        if isinstance(session, Session)
        else _loop_diverged_at(session, window, judged),
        read="chunks" if chunked or own_loop else "steps",
    )


def divergence(row: Prediction, found: Floats) -> float:
    """Return KL(reference, artifact) of two distributions in nats, from log-probabilities ``[vocabulary]``."""
    shares = np.exp(row.logp)
    open_ = shares > 0
    return float((shares[open_] * (row.logp[open_] - found[open_])).sum())


def _reserve(
    session: Session | LoopSession, stored: StoredReference, windows: Sequence[Window], *, whole: bool
) -> None:
    """Reserve for the longest window; ``whole``: its targets are read as part of the prompt."""
    pairs = list(zip(windows, stored.meta.windows, strict=True))
    if whole:
        longest = max(len(window.given) + len(judged.target) for window, judged in pairs)
        session.reserve(1, longest, max(1, *(len(judged.free) for _, judged in pairs)))
        return
    answer = max(max(len(judged.target) + len(judged.free), 1) for _, judged in pairs)
    session.reserve(1, max(len(window.given) for window, _ in pairs), answer)


def _ids(window: Window, judged: JudgedWindow, count: int | None = None) -> Tokens:
    """Return what is given and the first ``count`` (all) of the judged tokens, ``[1, n]``."""
    return np.array([window.given + judged.target[:count]], np.int64)


def _forced(session: Session, window: Window, judged: JudgedWindow) -> Iterator[Tokens]:
    """Feed the judged tokens one by one; yield what the session would have given in place of each."""
    yield session.start(np.array([window.given], np.int64))
    for fed in judged.target[:-1]:
        yield session.step(np.array([fed], np.int64))


def _diverged_at(session: Session, window: Window, judged: JudgedWindow, *, chunked: bool) -> int | None:
    """Generate freely; return the first token that is not the reference's, or None.

    Where the text continues, the session has read it up to the last judged token, unless it was read in a chunk.
    """
    if not window.continues:
        given = session.start(np.array([window.given], np.int64))
    elif chunked:
        given = session.start(_ids(window, judged))
    else:
        given = session.step(np.array(judged.target[-1:], np.int64))
    for place, expected in enumerate(judged.free):
        if int(given[0]) != expected:
            return place
        if place + 1 < len(judged.free):
            given = session.step(np.array([expected], np.int64))
    return None


def _judge_loop(
    session: LoopSession, stored: StoredReference, window: Window, judged: JudgedWindow, family: Family
) -> WindowFigures:
    """Judge an engine's own loop, which reads everything before a token again for it: every eighth token."""
    if family == "encoder-decoder":
        raise CannotRunError("this engine's own loop of an encoder-decoder cannot be fed an answer, nor gives logits")
    places = range(0, len(judged.target), LOOP_STRIDE)
    top1 = {place: int(session.generate(_ids(window, judged, place), 1)[0][0, 0]) for place in places}
    return _tokens_only(stored, judged, top1, _loop_diverged_at(session, window, judged))


def _loop_diverged_at(session: LoopSession, window: Window, judged: JudgedWindow) -> int | None:
    """Let an engine's own loop generate freely; return the first token that is not the reference's, or None."""
    prompt = _ids(window, judged) if window.continues else np.array([window.given], np.int64)
    given = session.generate(prompt, len(judged.free))[0][0].tolist() if judged.free else []
    apart = (place for place, (own, known) in enumerate(zip(given, judged.free, strict=True)) if own != known)
    return next(apart, None)


def _tokens_only(
    stored: StoredReference, judged: JudgedWindow, top1: dict[int, int], diverged_at: int | None
) -> WindowFigures:
    """Return what tokens alone say; ``top1`` has the session's best token by place."""
    same = sum(stored.row(judged.first_row + place).top1 == own for place, own in top1.items())
    return WindowFigures(
        tokens=len(top1),
        kl=None,
        same_top1=same,
        artifact_loss=None,
        reference_loss=None,
        free_tokens=len(judged.free),
        diverged_at=diverged_at,
        read="steps",
    )
