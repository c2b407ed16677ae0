"""What a session must keep that gives logits, and one that frees memory; ``slmbench.testing`` hands it on."""

from __future__ import annotations

import numpy as np

from slmbench.backend import FreesMemory, GivesAnswerLogits, GivesChunkLogits, GivesLogits, LoopSession, Session
from slmbench.conformance.subject import INPUT_TOKENS, OUTPUT_TOKENS, Subject, expect
from slmbench.terms import MARGIN_TOLERANCE


def check_logits(subject: Subject) -> None:
    """A session that gives logits gives those of its tokens: the best of them is the token, whoever chose the last."""
    ends = list(subject.artifact.manifest.checkpoint.eos_token_ids)
    with subject.session() as session:
        if isinstance(session, LoopSession) and isinstance(session, GivesAnswerLogits):
            session.reserve(1, 2 * INPUT_TOKENS, OUTPUT_TOKENS)
            answer = session.generate(subject.prompt(10), OUTPUT_TOKENS)[0]
            told = np.array([np.array(row) for row in session.answer_logits(subject.prompt(10), answer)])
            # Beyond fp32 a token that hangs by a hair may fall differently.
            exact = subject.options.compute_precision == "fp32" or len(told) != OUTPUT_TOKENS
            same = told.argmax(-1).tolist() == answer[0].tolist()
            expect(same or not exact, "the best of an answer's logits are its tokens")
        if not (isinstance(session, Session) and isinstance(session, GivesLogits)):
            return
        prompt, fed = subject.prompt(10), subject.prompt(11)
        session.reserve(1, 2 * INPUT_TOKENS, OUTPUT_TOKENS)
        tokens, rows = [session.start(prompt)], []
        for place in range(OUTPUT_TOKENS):
            row = np.array(session.logits(), np.float64)
            expect(row.shape[0] == 1 and row.ndim == 2, f"logits are [1, vocabulary]: {row.shape}")
            row[:, ends] = -np.inf
            expect(int(row[0].argmax()) == int(tokens[-1][0]), "the best of the logits is the token that was given")
            rows.append(row[0])
            if place + 1 < OUTPUT_TOKENS:
                tokens.append(session.step(fed[0, place : place + 1]))
        if isinstance(session, GivesChunkLogits) and subject.artifact.manifest.checkpoint.family == "decoder-only":
            text = np.concatenate([prompt, fed[:, : OUTPUT_TOKENS - 1]], axis=1)
            whole = np.array([np.array(row) for row in session.chunk_logits(text)])
            whole[:, ends] = -np.inf
            expect(len(whole) == INPUT_TOKENS + OUTPUT_TOKENS - 1, f"a chunk has logits at every place: {whole.shape}")
            spread = float(np.std(rows[0][np.isfinite(rows[0])]))
            for row, one in zip(rows, whole[INPUT_TOKENS - 1 :], strict=True):
                known = np.isfinite(row)
                apart = float(np.abs(row[known] - one[known]).max())
                tolerance = 10 * max(MARGIN_TOLERANCE.get(subject.options.compute_precision, 0.25), 1e-3) * spread
                expect(apart <= tolerance, f"a chunk gives the logits of steps, to {tolerance:.2g}: {apart:.2g} apart")


def check_freed_memory(subject: Subject) -> None:
    """Memory that a session gives back changes no token: not of prompts that it was told of, not of longer ones."""
    short, long = subject.prompt(12)[:, :1], subject.prompt(13)
    with subject.session() as session:
        if not (isinstance(session, Session) and isinstance(session, FreesMemory)):
            return
        known = [subject.generate(session, prompt).tolist() for prompt in (short, long)]
        session.free_memory(1)
        again = [subject.generate(session, prompt).tolist() for prompt in (short, long)]
        # Another graph may read the short prompt now; beyond fp32 a token that hangs by a hair may fall differently.
        exact = subject.options.compute_precision == "fp32"
        expect(again == known or not exact, "freed memory changes no token, and longer prompts can be reserved again")
