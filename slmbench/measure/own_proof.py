"""Proof without a reference: a session must agree with itself, however the same text reaches it.

The engine's own greedy answer, made token by token, is compared with what it gives where prompt and answer so far are
read at once, and with what an earlier load gave. All of them use the same weights, so only rounding in the compute
precision may change a choice: tokens count where the engine's own margin exceeds that precision's tolerance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from slmbench.backend import LoopSession, Rereads, Session, TakesPictures, TellsMargins
from slmbench.case import Case
from slmbench.measure.proof import Agreement, agreement, rounding_of
from slmbench.models.artifact import GoldenPrompt, GoldenRecord
from slmbench.system.files import write_whole
from slmbench.terms import MARGIN_TOLERANCE, Family, plain_precision

#: Tokens of the answer, and where of it prompt and answer are read at once: the ends and a place between.
TOKENS = 24
_PLACES = (1, 7, 16, 23)
#: The margin of tokens of an engine that tells none: each counts.
_UNTOLD = 1e9


def own_agreement(
    session: Session | LoopSession, prompts: Sequence[Sequence[int]], case: Case, family: Family, kept: Path
) -> Agreement:
    """Return how far the session agrees with itself, and with the load that wrote ``kept`` (this one, if none did).

    It must be reserved for the longest prompt and twice ``TOKENS``. Only text is compared, with no pictures before it.
    """
    if isinstance(session, TakesPictures):
        session.take_pictures({})
    tolerance = own_tolerance(case)
    found = Agreement(0, 0)
    own = [_answer(session, ids) for ids in prompts]
    for one in own:
        found += _at_once(session, one, tolerance, family)
    before = _read(kept)
    if before is None:
        write_whole(kept, GoldenRecord(prompts=tuple(own), versions={}).model_dump_json())
    else:
        found += agreement(session, before[: len(prompts)], tolerance, family)
    return found


def own_tolerance(case: Case) -> float:
    """Return the margin below which two ways of computing the same may differ."""
    rounding = rounding_of(case)
    compute = "int8" if rounding == "int16" else rounding
    return MARGIN_TOLERANCE[plain_precision(compute)]


def name_of_kept(case: Case, versions: dict[str, str]) -> str:
    """Return the name of the file that keeps what a load answered: of everything that may change the tokens."""
    parts = [case.backend, case.device, case.compute_precision, case.attention, case.options, case.simulate, versions]
    return f"own-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.json"


def _read(kept: Path) -> tuple[GoldenPrompt, ...] | None:
    with suppress(OSError, ValidationError):
        return GoldenRecord.model_validate_json(kept.read_bytes()).prompts
    return None


def _answer(session: Session | LoopSession, ids: Sequence[int]) -> GoldenPrompt:
    """Return the session's greedy answer, with its margins where it tells them."""
    prompt = np.array([ids], np.int64)
    if not isinstance(session, Session):
        given, _ = session.generate(prompt, TOKENS)
        tokens = [int(one) for one in given[0]]
        return GoldenPrompt(input_ids=tuple(ids), tokens=tuple(tokens), margins=(_UNTOLD,) * len(tokens))
    tokens, margins = [], []
    last = session.start(prompt)
    for place in range(TOKENS):
        tokens.append(int(last[0]))
        margins.append(float(session.margins()[0]) if isinstance(session, TellsMargins) else _UNTOLD)
        if place + 1 < TOKENS:
            last = session.step(last.copy())
    return GoldenPrompt(input_ids=tuple(ids), tokens=tuple(tokens), margins=tuple(margins))


def _at_once(session: Session | LoopSession, own: GoldenPrompt, tolerance: float, family: Family) -> Agreement:
    """Read the prompt and the answer so far in one piece, and compare the token that follows."""
    compared = equal = 0
    for place in _PLACES:
        if place >= len(own.tokens) or own.margins[place] <= tolerance:
            continue
        if family == "encoder-decoder":
            # Its answer cannot be put into its prompt; a session that rereads takes it as a whole.
            if not isinstance(session, Rereads) or not isinstance(session, Session):
                return Agreement(0, 0)
            session.start(np.array([own.input_ids], np.int64))
            given = session.reread(np.array([own.tokens[:place]], np.int64))
        else:
            ids = np.array([own.input_ids + own.tokens[:place]], np.int64)
            given = session.start(ids) if isinstance(session, Session) else session.generate(ids, 1)[0][:, 0]
        compared += 1
        equal += int(given[0]) == own.tokens[place]
    return Agreement(compared, equal)
