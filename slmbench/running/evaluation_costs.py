"""What quality and tasks of a plan take after its samples: time, and room on disk for the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from slmbench.case import Case, Workload
from slmbench.errors import amount
from slmbench.evaluation.stored_reference import is_stored, place_of, row_type
from slmbench.evaluation.text import ANSWER_TOKENS, FREE_TOKENS, LEAST_TOKENS, MOST_WINDOWS, Window
from slmbench.export.golden_record import reference_versions
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.asked_tasks import AskedTasks
from slmbench.plan.planner import PlannedCell
from slmbench.plan.quality import QualityPlan, Referenced
from slmbench.running.estimate import START_S, generation_s, weight_bytes_of
from slmbench.running.past_costs import PastCosts, SeenCost, kind_of, remember
from slmbench.running.progress import roughly

#: Importing torch and transformers, and loading the checkpoint.
_REFERENCE_START_S = 10.0


class EvaluationCosts(BaseModel):
    """Rough, as all that is said before a device was measured. 0 where nothing is asked."""

    model_config = ConfigDict(frozen=True)

    quality_s: float = 0.0
    #: Of references that are not in the cache yet.
    reference_s: float = 0.0
    reference_bytes: int = 0
    #: At most: answers may end sooner than they have to.
    tasks_s: float = 0.0
    #: All of it in sentences.
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationLeft:
    """What a run that is resumed still has to measure once the samples are there."""

    #: By the cases that share a quality.
    windows: Mapping[tuple[str, ...], Sequence[Window]]
    #: By key of the answers.
    items: Mapping[str, int]


def evaluation_costs(
    quality: QualityPlan | None, asked: AskedTasks | None, past: PastCosts, left: EvaluationLeft | None = None
) -> EvaluationCosts:
    """Estimate what is measured once the samples are there; ``past`` is what earlier runs on this machine took.

    ``left`` is what a run that is resumed still has to do of it.
    """
    if left is not None:
        quality, asked = quality if left.windows else None, asked if left.items else None
    lines: list[str] = []
    quality_s = reference_s = tasks_s = 0.0
    reference_bytes = 0
    if quality is not None:
        windows = _windows_of(quality, left)
        reading = [group for group in quality.groups if any(one.reference == group.reference for one, _, _ in windows)]
        made = [group for group in reading if not _has_reference(group)]
        quality_s = sum(_quality_s(cell, some, past) for _, cell, some in windows)
        reference_s = sum(_reference_s(group, past) for group in made)
        reference_bytes = sum(_reference_bytes(group) for group in made)
        most = max(len(some) for _, _, some in windows)
        lines.append(_quality_line(quality, len(windows), most, quality_s, reference_s, reference_bytes))
        lines += [line for group in reading if (line := _documents_line(quality, group))]
        lines += [f"no quality: {reason}" for reason in quality.refused]
    if asked is not None:
        items = dict.fromkeys(asked.cells, len(asked.tasks.items)) if left is None else left.items
        answering = {key: asked.cells[key] for key in items}
        tasks_s = sum(_tasks_s(asked, cell.checkpoint, cell.case, items[key], past) for key, cell in answering.items())
        seen = all(tasks_kind(cell.case) in past.seen for cell in answering.values())
        first, *others = asked.lines()
        if left is not None:
            first = f"tasks: {amount(sum(items.values()), 'answer')} left of {amount(len(items), 'case')}"
        lines += [f"{first}: {'about' if seen else 'at most about'} {roughly(tasks_s)}", *others]
    return EvaluationCosts(
        quality_s=quality_s,
        reference_s=reference_s,
        reference_bytes=reference_bytes,
        tasks_s=tasks_s,
        lines=tuple(lines),
    )


def _windows_of(
    plan: QualityPlan, left: EvaluationLeft | None
) -> list[tuple[Referenced, PlannedCell, Sequence[Window]]]:
    """Return the configurations to measure: each with its reference, its first cell and its windows."""
    cells = [
        (group, keys, cell)
        for group in plan.groups
        for keys, cell in zip(group.configurations, group.cells, strict=True)
    ]
    if left is None:
        return [(group, cell, group.windows) for group, _, cell in cells]
    # Cases without an artifact are not among those that are left.
    return [
        (group, cell, some) for group, keys, cell in cells for here, some in left.windows.items() if here[0] in keys
    ]


def _quality_line(
    plan: QualityPlan, configurations: int, most: int, quality_s: float, reference_s: float, reference_bytes: int
) -> str:
    count = amount(configurations, "configuration")
    line = f"quality: {count} on {amount(most, 'window')} of {plan.text.name}: about {roughly(quality_s)}"
    if not reference_bytes:
        return line
    return f"{line}, and {roughly(reference_s)} once for the reference ({reference_bytes / 1e9:.2f} GB in the cache)"


def _documents_line(plan: QualityPlan, group: Referenced) -> str | None:
    """Return why not all documents of the text are read, or None."""
    read, given = len({one.document for one in group.windows}), len(plan.text.documents)
    if read == given:
        return None
    what = f"quality of {group.reference.name} reads {read} of {amount(given, 'document')}"
    if len(group.windows) < MOST_WINDOWS:
        return f"{what}: a window takes at least {LEAST_TOKENS} tokens, and the rest is shorter"
    return f"{what}: {MOST_WINDOWS} windows, spread evenly over all that have {LEAST_TOKENS} tokens"


def quality_kind(case: Case) -> str:
    """Return the kind whose time for a window a case shares."""
    return f"{kind_of(case)}|quality"


def tasks_kind(case: Case) -> str:
    """Return the kind whose time for an answer a case shares."""
    return f"{kind_of(case)}|tasks"


def reference_kind(reference: Checkpoint) -> str:
    """Return the kind of a reference's time."""
    return f"{reference.name}|reference"


def windows_s(checkpoint: Checkpoint, case: Case, windows: Iterable[Window]) -> float:
    """Return about how long a slow machine reads windows token by token, with what is generated behind each."""
    return _generations_s(checkpoint, weight_bytes_of(checkpoint, case.weight_precision), Counter(map(_shape, windows)))


def answers_s(asked: AskedTasks, checkpoint: Checkpoint, case: Case, items: int) -> float:
    """Return about how long a slow machine takes for that many answers of the longest length."""
    ids = asked.readings[checkpoint].ids
    shape = (max(1, sum(map(len, ids)) // len(ids)), asked.max_new_tokens)
    return _generations_s(checkpoint, weight_bytes_of(checkpoint, case.weight_precision), {shape: items})


def remember_evaluation(kind: str, open_s: float, taken_s: float, expected_s: float) -> None:
    """Keep what a part of an evaluation took, for the next forecast."""
    if taken_s > 0 and expected_s > 0:
        remember([(kind, SeenCost(open_s=open_s, factor=taken_s / expected_s))])


def reference_work_s(group: Referenced) -> float:
    """Return about how long torch reads the windows in fp32 on a slow machine."""
    if group.reference.family == "encoder-decoder":
        shapes = Counter(map(_shape, group.windows))
    else:
        shapes = Counter((len(one.given) + len(one.target or ()), FREE_TOKENS) for one in group.windows)
    return _generations_s(group.reference, 4.0, shapes)


def _shape(window: Window) -> tuple[int, int]:
    return len(window.given), (ANSWER_TOKENS if window.target is None else len(window.target)) + FREE_TOKENS


def _generations_s(checkpoint: Checkpoint, weight_bytes: float, shapes: Mapping[tuple[int, int], int]) -> float:
    return sum(
        count * generation_s(checkpoint, Workload(input_tokens=given, output_tokens=answer), weight_bytes)
        for (given, answer), count in shapes.items()
    )


def _quality_s(cell: PlannedCell, windows: Sequence[Window], past: PastCosts) -> float:
    reading_s = windows_s(cell.checkpoint, cell.case, windows) * past.factor(quality_kind(cell.case))
    return past.open_s(kind_of(cell.case), START_S) + reading_s


def _tasks_s(asked: AskedTasks, checkpoint: Checkpoint, case: Case, items: int, past: PastCosts) -> float:
    whole = answers_s(asked, checkpoint, case, items)
    return past.open_s(kind_of(case), START_S) + whole * past.factor(tasks_kind(case))


def _has_reference(group: Referenced) -> bool:
    return is_stored(place_of(group.reference, group.windows, reference_versions()))


def _reference_s(group: Referenced, past: PastCosts) -> float:
    return _REFERENCE_START_S + reference_work_s(group) * past.factor(reference_kind(group.reference))


def _reference_bytes(group: Referenced) -> int:
    rows = sum(ANSWER_TOKENS if one.target is None else len(one.target) for one in group.windows)
    return rows * row_type(group.reference.geometry.vocab_size).itemsize
