"""The timed loop: one generation of a session, stamped token by token."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from slmbench.backend import LoopSession, Session, TellsPhases, Tokens
from slmbench.errors import CannotRunError


class ShortGenerationError(CannotRunError):
    """Not exactly the asked number of tokens came: the sample is invalid."""


@dataclass(frozen=True)
class Generation:
    """One generation. Times in ns from the call of ``start``."""

    #: When each token was on the host; ``token_ns[0]`` is the time to the first token.
    token_ns: tuple[int, ...]
    #: Parts of the first token's time, as the session tells them.
    phases_ns: dict[str, int]
    #: ``[rows, output]``, int64.
    tokens: Tokens
    #: Of a conversation: when each turn was asked, and how many tokens it answered.
    turn_start_ns: tuple[int, ...] = ()
    turn_tokens: tuple[int, ...] = ()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Collect garbage now and not again until the end: no collection falls into the timed region."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def generate(
    session: Session | LoopSession,
    input_ids: Tokens,
    attention_mask: Tokens | None,
    output_tokens: int,
    eos_token_ids: tuple[int, ...] = (),
    *,
    answers: int = 1,
) -> Generation:
    """Generate ``output_tokens`` tokens from ``input_ids`` ``[batch, input]``, ``answers`` rows each; stamp each token.

    Raises:
        ShortGenerationError: fewer tokens came, or an end-of-sequence token, which is to be suppressed.
        CannotRunError: a mask for a session that brings its own loop.
    """
    if isinstance(session, Session):
        made = _step(session, input_ids, attention_mask, (len(input_ids) * answers, output_tokens))
    else:
        if attention_mask is not None:
            raise CannotRunError("prompts of unequal length cannot be batched: this engine's own loop takes no mask")
        made = _loop(session, input_ids, output_tokens)
    check_ended(made.tokens, eos_token_ids)
    return made


def check_ended(tokens: Tokens, eos_token_ids: tuple[int, ...]) -> None:
    """Refuse tokens ``[rows, output]`` with an end of sequence among them.

    Raises:
        ShortGenerationError: there is one.
    """
    ended = np.argwhere(np.isin(tokens, np.array(eos_token_ids, np.int64)))
    if len(ended):
        row, position = ended[0]
        raise ShortGenerationError(
            f"end of sequence at token {position + 1} of {tokens.shape[1]} (row {row}); it must be suppressed"
        )


def _step(session: Session, input_ids: Tokens, attention_mask: Tokens | None, shape: tuple[int, int]) -> Generation:
    rows, output_tokens = shape
    stamps, tokens = [0] * output_tokens, np.empty((output_tokens, rows), np.int64)
    step, now, rest = session.step, perf_counter_ns, range(1, output_tokens)
    with quiet_collector():
        begin = now()
        current = session.start(input_ids, attention_mask)
        stamps[0] = now()
        tokens[0] = current
        for position in rest:
            current = step(current)
            stamps[position] = now()
            tokens[position] = current
    return Generation(tuple(stamp - begin for stamp in stamps), session.phases_ns(), tokens.T.copy())


def _loop(session: LoopSession, input_ids: Tokens, output_tokens: int) -> Generation:
    with quiet_collector():
        begin = perf_counter_ns()
        tokens, stamps = session.generate(input_ids, output_tokens)
    if tokens.shape != (len(input_ids), output_tokens) or len(stamps) != output_tokens:
        given = min(len(stamps), tokens.shape[-1])
        raise ShortGenerationError(f"{output_tokens} tokens asked, {given} given")
    phases = session.phases_ns() if isinstance(session, TellsPhases) else {}
    return Generation(tuple(stamp - begin for stamp in stamps), phases, tokens)
