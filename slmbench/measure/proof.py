"""Proof before time: does a session run what was asked, and does it give the reference's tokens?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slmbench.backend import UNASKED, GivesAnswerLogits, LoopSession, Pixels, Session, TakesPictures
from slmbench.case import Case
from slmbench.errors import BadInputError
from slmbench.models.artifact import GoldenPicture, GoldenPrompt
from slmbench.records.schema import FailureReason
from slmbench.terms import MARGIN_TOLERANCE, ComputePrecision, Family, PlainPrecision, Precision, plain_precision

#: From exact to coarse: the coarser of weight and compute precision decides what is expected.
_COARSENESS: tuple[PlainPrecision | ComputePrecision, ...] = ("fp32", "fp16", "bf16", "int16", "int8", "int4")

#: Share of the golden tokens that must be reproduced. 4-bit rounding of weights changes the model itself: 19 % agreed
#: for eight layers of random weights, 56 % and more for most models. Its floor is one that only wrong wiring misses.
REQUIRED_AGREEMENT: dict[str, float] = {
    "fp32": 1.0,
    "fp16": 0.95,
    "bf16": 0.95,
    "int16": 0.95,
    "int8": 0.95,
    "int4": 0.05,
}

#: The same of a file that somebody else quantised. It is measured as it is, and what rounding took is a matter of its
#: quality: the int8 of CTranslate2, whose activations are 8 bits too, gave 64 % (without VNNI) and 88 % for a trained
#: T5. Less than this is a file of another model, or a wrong reading of it.
GIVEN_AGREEMENT: dict[str, float] = {**REQUIRED_AGREEMENT, "int8": 0.5}

#: The same without a reference, by the compute precision: what a session must agree with itself.
OWN_AGREEMENT: dict[ComputePrecision, float] = {"fp32": 1.0, "fp16": 0.95, "bf16": 0.9, "int16": 0.9, "int8": 0.9}


def coarser(weight: Precision, compute: ComputePrecision) -> PlainPrecision | ComputePrecision:
    """Return the coarser of the two precisions."""
    return max((plain_precision(weight), compute), key=_COARSENESS.index)


def rounding_of(case: Case) -> ComputePrecision:
    """Return the precision that rounds as coarsely as the case may: an engine's defaults may have K/V in 8 bits."""
    return "int8" if case.compute_precision == "default" else case.compute_precision


@dataclass(frozen=True)
class Agreement:
    """How many golden tokens were compared, and how many of them came out."""

    compared: int
    equal: int

    def __add__(self, other: Agreement) -> Agreement:
        """Return both together."""
        return Agreement(self.compared + other.compared, self.equal + other.equal)

    @property
    def share(self) -> float | None:
        """Return the share that agrees, or None when nothing could be compared."""
        return self.equal / self.compared if self.compared else None


@dataclass(frozen=True)
class SessionProof:
    """What a session showed after it ran."""

    agreement: float | None
    agreement_tokens: int
    executed_on: str
    compute_precision: str
    threads: int
    cross_kv_once: bool | None
    nodes: dict[str, int] = field(default_factory=dict)
    #: Further settings by name: what was asked, what the engine says is in effect.
    settings: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Whether the tokens were compared with a reference's, or with the session's own.
    reference: bool = True


@dataclass(frozen=True)
class Verdict:
    """Why a case fails, with one line for people."""

    reason: FailureReason
    message: str


def judge(case: Case, evidence: SessionProof) -> Verdict | None:
    """Return why the evidence does not show what the case asks for, or None when it does."""
    if evidence.executed_on != case.device and not case.simulate:
        return Verdict(FailureReason.WRONG_DEVICE, f"asked for {case.device}, executed on {evidence.executed_on}")
    if case.settings == "fair" and evidence.compute_precision != case.compute_precision:
        message = f"asked to compute in {case.compute_precision}, the engine computes in {evidence.compute_precision}"
        return Verdict(FailureReason.WRONG_PRECISION, message)
    if case.threads and case.device == "cpu" and evidence.threads != case.threads:
        return Verdict(
            FailureReason.WRONG_THREADS, f"asked for {case.threads} threads, the engine uses {evidence.threads}"
        )
    for name, (asked, reported) in evidence.settings.items():
        if asked not in (UNASKED, reported):
            return Verdict(FailureReason.WRONG_SETTING, f"asked for {name} {asked}, the engine has {reported}")
    # What a graph of the user's does, or one that the engine builds, is a cost of its own and a flag in the table.
    if evidence.cross_kv_once is False and case.exporter != "given" and not case.engine_builds_graph:
        return Verdict(
            FailureReason.CROSS_KV_RECOMPUTED, "a decoder step of this artifact computes cross-attention K/V again"
        )
    if not evidence.reference:
        return _judge_own(case, evidence)
    required = GIVEN_AGREEMENT if case.exporter == "given" else REQUIRED_AGREEMENT
    return _judge_tokens(coarser(case.weight_precision, rounding_of(case)), evidence, required)


def _judge_own(case: Case, evidence: SessionProof) -> Verdict | None:
    """Judge a session that was compared with itself: the weights are the same, so rounding alone may differ."""
    required = OWN_AGREEMENT[rounding_of(case)]
    if evidence.agreement is None or evidence.agreement >= required:
        return None
    wrong = round((1 - evidence.agreement) * evidence.agreement_tokens)
    return Verdict(
        FailureReason.WRONG_TOKENS,
        f"{wrong} of {evidence.agreement_tokens} tokens differ between a text read at once, read token by token, and "
        f"an earlier load ({required:.0%} must agree in {rounding_of(case)}); there is no reference",
    )


def _judge_tokens(precision: str, evidence: SessionProof, shares: Mapping[str, float]) -> Verdict | None:
    required = shares[precision]
    if evidence.agreement is None:
        return Verdict(
            FailureReason.WRONG_TOKENS, f"no golden token has a margin that {precision} could tell; nothing is proven"
        )
    if evidence.agreement < required:
        wrong = round((1 - evidence.agreement) * evidence.agreement_tokens)
        return Verdict(
            FailureReason.WRONG_TOKENS,
            f"{wrong} of {evidence.agreement_tokens} golden tokens differ from the reference "
            f"({required:.0%} must agree at {precision})",
        )
    return None


#: What makes the pixel tensors of a golden prompt's pictures (see :func:`slmbench.measure.pictures.pixels_of`).
PixelsOf = Callable[[Sequence[GoldenPicture]], Pixels]


def agreement(
    session: Session | LoopSession,
    prompts: Sequence[GoldenPrompt],
    tolerance: float,
    family: Family,
    pixels_of: PixelsOf | None = None,
) -> Agreement:
    """Compare the session's tokens with the golden ones under teacher forcing, batch 1.

    A token counts where the reference's top-1 margin exceeds ``tolerance``. The session must be reserved for the
    longest prompt and answer together; it holds no pictures afterwards.

    Raises:
        BadInputError: prompts with pictures for a session that takes none, or nothing to prepare them with.
    """
    compared = equal = 0
    for prompt in prompts:
        show_pictures(session, prompt, pixels_of)
        hits = _forced(session, prompt) if isinstance(session, Session) else _restarted(session, prompt, family)
        for hit, margin in zip(hits, prompt.margins, strict=False):
            if margin > tolerance:
                compared += 1
                equal += hit
    if isinstance(session, TakesPictures):
        session.take_pictures({})
    return Agreement(compared, equal)


def telling_prompt(prompts: Sequence[GoldenPrompt], tolerance: float) -> GoldenPrompt:
    """Return the prompt of most tokens that :func:`agreement` counts; coarse precisions may count none of another.

    Raises:
        ValueError: no prompts.
    """
    return max(prompts, key=lambda prompt: sum(margin > tolerance for margin in prompt.margins))


def show_pictures(session: Session | LoopSession, prompt: GoldenPrompt, pixels_of: PixelsOf | None) -> None:
    """Have the session hold a golden prompt's pictures, and no others."""
    if isinstance(session, TakesPictures) and (pixels_of is not None or not prompt.pictures):
        session.take_pictures(pixels_of(prompt.pictures) if pixels_of is not None and prompt.pictures else {})
    elif prompt.pictures:
        raise BadInputError("the golden prompts have pictures, which this session or its worker does not take")


def _forced(session: Session, prompt: GoldenPrompt) -> list[bool]:
    given = session.start(np.array([prompt.input_ids], np.int64))
    hits = [int(given[0]) == prompt.tokens[0]]
    for fed, expected in zip(prompt.tokens, prompt.tokens[1:], strict=False):
        given = session.step(np.array([fed], np.int64))
        hits.append(int(given[0]) == expected)
    return hits


def _restarted(session: LoopSession, prompt: GoldenPrompt, family: Family) -> list[bool]:
    """Teacher forcing of a loop that nobody may step: generate up to the first difference, then start again behind
    it with the golden tokens as part of the prompt. An encoder-decoder's answer cannot be put into its prompt:
    behind the first difference the logits speak for it, and where the engine gives none the comparison ends there.
    """
    hits: list[bool] = []
    while len(hits) < len(prompt.tokens):
        done = len(hits)
        ids = np.array([prompt.input_ids + prompt.tokens[:done]], np.int64)
        tokens, _ = session.generate(ids, len(prompt.tokens) - done)
        for given, expected in zip(tokens[0].tolist(), prompt.tokens[done:], strict=False):
            hits.append(given == expected)
            if given != expected:
                break
        if len(hits) == done:
            break
        if not hits[-1] and family == "encoder-decoder":
            return hits + _best_of_logits(session, prompt)[len(hits) :]
    return hits


def _best_of_logits(session: LoopSession, prompt: GoldenPrompt) -> list[bool]:
    """Return for each golden token whether it has the largest logit behind those before it; empty without logits."""
    if not isinstance(session, GivesAnswerLogits):
        return []
    ids, answer = np.array([prompt.input_ids], np.int64), np.array([prompt.tokens], np.int64)
    rows = session.answer_logits(ids, answer)
    return [int(row.argmax()) == token for row, token in zip(rows, prompt.tokens, strict=True)]


def tolerance_of(case: Case) -> float:
    """Return the margin, in standard deviations of the logits, below which a golden token does not count."""
    return max(MARGIN_TOLERANCE.get(rounding_of(case), 0.0), MARGIN_TOLERANCE[plain_precision(case.weight_precision)])
