"""``quality.jsonl``: how far each configuration's predictions are from the reference's, a line for each window of text.

Cases that differ in lengths alone share their lines. The file holds figures and digests, no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from slmbench.errors import BadInputError
from slmbench.records.answers import answer_schema
from slmbench.records.lines import record_lines
from slmbench.records.schema import FailureReason, json_schemas
from slmbench.records.without_folders import Message
from slmbench.terms import Natural, StrictModel

QUALITY_NAME = "quality.jsonl"


class WindowFigures(StrictModel):
    """What one window of text showed: each next token compared with the reference's prediction."""

    #: Positions that were compared.
    tokens: Annotated[int, Field(ge=1)]
    #: KL(reference, artifact) at each position, in nats; None where the engine gives tokens only.
    kl: tuple[float, ...] | None
    #: Positions where both have the same best token.
    same_top1: Annotated[int, Field(ge=0)]
    #: Sums of -log p of the text's own next token, in nats; None where the engine gives tokens only.
    artifact_loss: float | None
    reference_loss: float | None
    #: Greedy generation after the window: the tokens that were compared with the reference's, and the first (from 0)
    #: that differs; None: none does.
    free_tokens: Natural = 0
    diverged_at: Natural | None = None
    #: How the text was read: "chunks" (all logits of a window at once) or "steps" (token by token, as answers are).
    read: Literal["chunks", "steps"]


class WindowRecord(WindowFigures):
    """One window of text, as one configuration reads it."""

    type: Literal["window"] = "window"
    #: Keys of the cases that this holds for: what they share is everything but lengths.
    cases: tuple[str, ...]
    #: Name and digest of the checkpoint that torch ran in fp32.
    reference: str
    reference_digest: str
    #: Of everything that is judged: the texts (or prompts with their targets) and how they are cut.
    text_digest: str
    #: Both from 0; windows are counted over all documents.
    document: Natural
    window: Natural


class NoQualityRecord(StrictModel):
    """Cases whose quality could not be measured, and why."""

    type: Literal["none"] = "none"
    cases: tuple[str, ...]
    #: None: it cannot be asked of these cases (random weights, no reference); else what went wrong.
    failure: FailureReason | None = None
    message: Message


QualityLine = Annotated[WindowRecord | NoQualityRecord, Field(discriminator="type")]
_LINE: TypeAdapter[WindowRecord | NoQualityRecord] = TypeAdapter(QualityLine)


def _no_ints() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_floats() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True)
class CaseQuality:
    """What was measured of one case, a row for each window; no rows where ``reason`` says why there are none.

    ``kl_sum``, ``artifact_loss`` and ``reference_loss`` are sums over a window's tokens in nats, NaN where the engine
    gives tokens only; ``kl`` holds every position of all windows, one window behind the other.
    """

    reference: str = ""
    reference_digest: str = ""
    text_digest: str = ""
    document: NDArray[np.int64] = field(default_factory=_no_ints)
    window: NDArray[np.int64] = field(default_factory=_no_ints)
    tokens: NDArray[np.int64] = field(default_factory=_no_ints)
    same_top1: NDArray[np.int64] = field(default_factory=_no_ints)
    kl_sum: NDArray[np.float64] = field(default_factory=_no_floats)
    artifact_loss: NDArray[np.float64] = field(default_factory=_no_floats)
    reference_loss: NDArray[np.float64] = field(default_factory=_no_floats)
    kl: NDArray[np.float64] = field(default_factory=_no_floats)
    #: Tokens of greedy generation before the first that differs; all of them where none does. -1: not generated.
    free_same: NDArray[np.int64] = field(default_factory=_no_ints)
    read: str = ""
    reason: str = ""


def read_quality(folder: Path, warnings: list[str] | None = None) -> dict[str, CaseQuality]:
    """Return the quality of every case that ``quality.jsonl`` in a run's folder speaks of; empty without such a file.

    Raises:
        BadInputError: a line is damaged, or one case has lines of two texts or references.
    """
    windows: dict[str, dict[int, WindowRecord]] = {}
    reasons: dict[str, str] = {}
    for record in quality_lines(folder, [] if warnings is None else warnings):
        for case in record.cases:
            if isinstance(record, NoQualityRecord):
                reasons[case] = record.message
                continue
            known = windows.setdefault(case, {})
            _check_same_text(folder, case, known, record)
            # A window that was measured again in a resumed run: the later line counts. So does one after a failure.
            known[record.window] = record
            reasons.pop(case, None)
    # What failed has no figures, the windows before the failure included: they would be of another text.
    failed = {case: CaseQuality(reason=reason) for case, reason in reasons.items()}
    return {case: _columns(sorted(found.values(), key=_place)) for case, found in windows.items()} | failed


def quality_lines(folder: Path, warnings: list[str]) -> Iterable[WindowRecord | NoQualityRecord]:
    """Return the lines of ``quality.jsonl`` in the order they were written; none without such a file.

    Raises:
        BadInputError: a line is damaged.
    """
    return record_lines(folder / QUALITY_NAME, _LINE, warnings)


def all_schemas() -> dict[str, dict[str, Any]]:
    """Return the published JSON Schemas of all files of a run, by file name."""
    line = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_LINE.json_schema(mode="serialization")}
    return {
        **json_schemas(),
        "answers.schema.json": answer_schema(),
        "quality.schema.json": line | {"title": "one line of slmbench quality.jsonl"},
    }


def _check_same_text(folder: Path, case: str, known: Mapping[int, WindowRecord], record: WindowRecord) -> None:
    for other in known.values():
        if (other.text_digest, other.reference_digest) != (record.text_digest, record.reference_digest):
            raise BadInputError(f"{folder / QUALITY_NAME}: lines of two texts or references for {case}")
        return


def _place(record: WindowRecord) -> int:
    return record.window


def _columns(records: Sequence[WindowRecord]) -> CaseQuality:
    first = records[0]

    def ints(values: Iterable[int]) -> NDArray[np.int64]:
        return np.fromiter(values, np.int64, len(records))

    def floats(values: Iterable[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    return CaseQuality(
        reference=first.reference,
        reference_digest=first.reference_digest,
        text_digest=first.text_digest,
        document=ints(one.document for one in records),
        window=ints(one.window for one in records),
        tokens=ints(one.tokens for one in records),
        same_top1=ints(one.same_top1 for one in records),
        kl_sum=floats(None if one.kl is None else sum(one.kl) for one in records),
        artifact_loss=floats(one.artifact_loss for one in records),
        reference_loss=floats(one.reference_loss for one in records),
        kl=np.array([value for one in records for value in one.kl or ()], dtype=np.float64),
        free_same=ints(
            -1 if not one.free_tokens else one.free_tokens if one.diverged_at is None else one.diverged_at
            for one in records
        ),
        read=first.read,
    )
