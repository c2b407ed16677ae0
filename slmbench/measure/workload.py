"""How a session carries out a workload: one prompt and answer, a conversation, several answers, no K/V cache."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from slmbench.backend import Draws, Extends, LoopSession, Rereads, Session, Tokens
from slmbench.case import Workload
from slmbench.errors import CannotRunError
from slmbench.measure.generate import Generation, check_ended, generate, quiet_collector
from slmbench.terms import Family


def reserve(session: Session | LoopSession, work: Workload, family: Family, image_tokens: int = 0) -> None:
    """Reserve what the workload needs, and so many tokens of pictures.

    Raises:
        BadInputError: the shape is beyond what the artifact or the engine takes.
    """
    longest = work.longest_input + image_tokens
    if work.cache == "off" and family == "decoder-only":
        # The answer so far is part of the prompt.
        longest += work.output_tokens - 1
    session.reserve(work.rows, longest, max(work.outputs()))


def prompts_of(work: Workload, drawn: Tokens) -> list[Tokens]:
    """Return what each turn's user says, from ids ``[batch, said_tokens(work)]``."""
    cuts = [work.input_tokens + turn * work.added for turn in range(work.turns - 1)]
    return [np.ascontiguousarray(part) for part in np.split(drawn, cuts, axis=1)]


def said_tokens(work: Workload) -> int:
    """Return how many tokens the user says in all turns."""
    return work.input_tokens + (work.turns - 1) * work.added


def carry_out(
    session: Session | LoopSession,
    work: Workload,
    prompts: Sequence[Tokens],
    attention_mask: Tokens | None,
    family: Family,
    *,
    eos_token_ids: tuple[int, ...] = (),
    seed: int = 0,
) -> Generation:
    """Generate what the workload asks for and stamp each token; ``seed`` is for drawn tokens.

    Raises:
        ShortGenerationError: fewer tokens came than asked, or an end of sequence.
        CannotRunError: the session cannot do what the workload asks.
    """
    if isinstance(session, Draws):
        session.draw(seed if work.sampling == "random" else None)
    elif work.sampling == "random":
        raise CannotRunError("this engine's session draws no tokens; take greedy ones")
    if work.turns == 1 and work.cache == "on":
        count = work.output_tokens
        return generate(session, prompts[0], attention_mask, count, eos_token_ids, answers=work.answers)
    if not isinstance(session, Session):
        raise CannotRunError("this engine's own loop takes one prompt and gives one answer")
    if work.cache == "off":
        made = _uncached(session, prompts[0], work.output_tokens, family)
    else:
        made = _converse(session, prompts, work.outputs(), family)
    check_ended(made.tokens, eos_token_ids)
    return made


def _converse(session: Session, prompts: Sequence[Tokens], outputs: Sequence[int], family: Family) -> Generation:
    """Carry a conversation on.

    A decoder-only model reads what is new, on the K/V it has; an encoder-decoder encodes everything said so far,
    answers included, and its decoder starts again. No time passes between an answer and the next turn.
    """
    extend = session.extend if isinstance(session, Extends) else None
    if family == "decoder-only" and extend is None:
        raise CannotRunError("this engine's session keeps no K/V between turns")
    now, step = perf_counter_ns, session.step
    asked, stamps = [0] * len(outputs), [0] * sum(outputs)
    tokens = np.empty((len(stamps), len(prompts[0])), np.int64)
    context, current, done = prompts[0], prompts[0], 0
    phases: dict[str, int] = {}
    later_vision = 0
    with quiet_collector():
        begin = now()
        for turn, (said, count) in enumerate(zip(prompts, outputs, strict=True)):
            if turn and extend is not None:
                fed = np.concatenate([current[:, None], said], axis=1)
            elif turn:
                answer = tokens[done - outputs[turn - 1] : done].T
                fed = context = np.concatenate([context, answer, said], axis=1)
            else:
                fed = context
            asked[turn] = now() - begin if turn else 0
            current = extend(fed) if turn and extend is not None else session.start(fed)
            stamps[done] = now() - begin
            tokens[done] = current
            if not turn:
                phases = session.phases_ns()
            elif extend is None:
                later_vision += session.phases_ns().get("vision", 0)
            for place in range(done + 1, done + count):
                current = step(current)
                stamps[place] = now() - begin
                tokens[place] = current
            done += count
    if "vision" in phases:
        # What later turns spend on a picture that the first one read: nothing where its features are kept.
        phases = {**phases, "later_vision": later_vision}
    return Generation(tuple(stamps), phases, tokens.T.copy(), tuple(asked), tuple(outputs))


def _uncached(session: Session, prompt: Tokens, output_tokens: int, family: Family) -> Generation:
    """Generate without K/V of the answer: every token reads the decoder's whole input again.

    The encoder's work is kept: it is no part of the decoder's input.
    """
    reread = session.reread if isinstance(session, Rereads) else None
    if family == "encoder-decoder" and reread is None:
        raise CannotRunError("this engine's session has no steps without a K/V cache")
    now = perf_counter_ns
    stamps = [0] * output_tokens
    tokens = np.empty((len(prompt), output_tokens), np.int64)
    with quiet_collector():
        begin = now()
        current = session.start(prompt)
        stamps[0] = now() - begin
        tokens[:, 0] = current
        phases = session.phases_ns()
        for position in range(1, output_tokens):
            so_far = tokens[:, :position]
            current = reread(so_far) if reread is not None else session.start(np.concatenate([prompt, so_far], axis=1))
            stamps[position] = now() - begin
            tokens[:, position] = current
    return Generation(tuple(stamps), phases, tokens)
