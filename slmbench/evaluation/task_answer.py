"""One answer that ends where the model ends it, stamped at its first token and at its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from time import perf_counter_ns

from slmbench.backend import LoopSession, Session, Tokens
from slmbench.errors import CannotRunError
from slmbench.measure.generate import quiet_collector


@dataclass(frozen=True)
class TaskAnswer:
    """An answer. Times in ns from the call of ``start``."""

    #: Without the end of sequence.
    tokens: tuple[int, ...]
    ttft_ns: int
    #: When it was known to be whole: at its end of sequence, or at its last token.
    answer_ns: int
    #: Whether the model ended it.
    ended: bool


def answer(session: Session | LoopSession, input_ids: Tokens, most: int, ends: Collection[int]) -> TaskAnswer:
    """Answer one prompt ``[1, input]`` greedily, until one of ``ends`` or ``most`` tokens.

    The session lets ends through (``Artifact.with_ends``). An engine's own loop generates ``most`` tokens, and those
    behind the end do not count: its times are those at which the tokens before it came.

    Raises:
        CannotRunError: the engine's own loop gave fewer tokens than asked, and no end among them.
    """
    if isinstance(session, Session):
        return _stepped(session, input_ids, most, frozenset(ends))
    with quiet_collector():
        begin = perf_counter_ns()
        tokens, stamps = session.generate(input_ids, most)
    given = tokens[0].tolist()
    place = next((index for index, token in enumerate(given) if token in ends), None)
    if place is None and len(given) < most:
        raise CannotRunError(f"{most} tokens asked, {len(given)} given, and no end of sequence among them")
    last = most - 1 if place is None else place
    return TaskAnswer(
        tuple(given[: last + (place is None)]), stamps[0] - begin, stamps[last] - begin, place is not None
    )


def _stepped(session: Session, input_ids: Tokens, most: int, ends: frozenset[int]) -> TaskAnswer:
    tokens: list[int] = []
    step, now = session.step, perf_counter_ns
    with quiet_collector():
        begin = now()
        current = session.start(input_ids)
        first = now()
        token = int(current[0])
        while token not in ends:
            tokens.append(token)
            if len(tokens) == most:
                break
            current = step(current)
            token = int(current[0])
        end = now()
    return TaskAnswer(tuple(tokens), first - begin, end - begin, token in ends)
