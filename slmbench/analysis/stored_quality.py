"""What a baseline keeps of quality: figures for each window and item, and digests. Never a text."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from slmbench.analysis.item_scores import ItemScores
from slmbench.analysis.metrics import Side
from slmbench.analysis.quality import configuration_of
from slmbench.records.quality import CaseQuality
from slmbench.records.sample_columns import Floats
from slmbench.terms import StrictModel

#: Sums of a window; nothing that was measured is outside these bounds.
_Nats = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class StoredQuality(StrictModel):
    """How far one configuration's predictions are from the reference's: a figure for each window, and no text."""

    #: Keys of the cases that this holds for.
    cases: list[str]
    reference: str
    reference_digest: str
    text_digest: str
    read: str
    tokens: list[Annotated[int, Field(ge=1, le=2**53)]] = Field(min_length=1)
    same_top1: list[Annotated[int, Field(ge=0, le=2**53)]]
    #: Sums over a window; None where the engine gives tokens only.
    kl: list[_Nats] | None
    artifact_loss: list[_Nats] | None
    reference_loss: list[_Nats] | None


class StoredTasks(StrictModel):
    """The scores of one configuration's answers to a task file, item by item; no prompt and no answer."""

    #: Keys of the cases that this holds for.
    cases: list[str]
    name: str
    digest: str
    scores: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1)

    def scores_of(self) -> ItemScores:
        """Return them as a comparison takes them."""
        return ItemScores(self.name, self.digest, np.array(self.scores, dtype=np.float64))


def stored_qualities(side: Side) -> list[StoredQuality]:
    """Return the quality of a side, once for each configuration."""
    kept: dict[str, StoredQuality] = {}
    for key, found in side.cases.items():
        quality = found.quality
        if quality is None or not quality.tokens.size:
            continue
        configuration = configuration_of(found)
        if configuration in kept:
            kept[configuration].cases.append(key)
            continue
        kept[configuration] = StoredQuality(
            cases=[key],
            reference=quality.reference,
            reference_digest=quality.reference_digest,
            text_digest=quality.text_digest,
            read=quality.read,
            tokens=quality.tokens.tolist(),
            same_top1=quality.same_top1.tolist(),
            kl=_known(quality.kl_sum),
            artifact_loss=_known(quality.artifact_loss),
            reference_loss=_known(quality.reference_loss),
        )
    return list(kept.values())


def _known(sums: Floats) -> list[float] | None:
    return [float(f"{value:.10g}") for value in sums] if np.all(np.isfinite(sums)) else None


def quality_of(kept: StoredQuality) -> CaseQuality:
    """Return it as a comparison takes it.

    Raises:
        ValueError: its columns are of unequal lengths.
    """
    count = len(kept.tokens)
    columns = (kept.same_top1, kept.kl, kept.artifact_loss, kept.reference_loss)
    if any(len(column) != count for column in columns if column is not None):
        raise ValueError(f"quality of {', '.join(kept.cases)}: unequal numbers of windows")
    unknown = np.full(count, np.nan)
    sums = [unknown if column is None else np.array(column, dtype=np.float64) for column in columns[1:]]
    return CaseQuality(
        reference=kept.reference,
        reference_digest=kept.reference_digest,
        text_digest=kept.text_digest,
        window=np.arange(count),
        tokens=np.array(kept.tokens, dtype=np.int64),
        same_top1=np.array(kept.same_top1, dtype=np.int64),
        kl_sum=sums[0],
        artifact_loss=sums[1],
        reference_loss=sums[2],
        read=kept.read,
    )


def stored_tasks(side: Side) -> list[StoredTasks]:
    """Return the task scores of a side, once for each configuration."""
    kept: dict[str, StoredTasks] = {}
    for key, found in side.cases.items():
        if found.tasks is None or not found.tasks.scores.size:
            continue
        configuration = configuration_of(found)
        if configuration in kept:
            kept[configuration].cases.append(key)
        else:
            scores = [float(f"{score:.6g}") for score in found.tasks.scores]
            kept[configuration] = StoredTasks(
                cases=[key], name=found.tasks.name, digest=found.tasks.digest, scores=scores
            )
    return list(kept.values())
