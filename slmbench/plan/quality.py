"""What of a plan has its quality measured: on which text, against which reference, and why some of it cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.evaluation.text import QualityText, Window, read_texts, shipped_text, windows_of
from slmbench.measure.text_prompts import load_tokenizer
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.plan.request import RunRequest


@dataclass(frozen=True)
class Referenced:
    """Configurations that are judged against one reference."""

    reference: Checkpoint
    windows: tuple[Window, ...]
    #: Keys of the cases of each configuration: what they share is everything but lengths.
    configurations: tuple[tuple[str, ...], ...]
    #: The first cell of each.
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True)
class QualityPlan:
    """Everything whose quality will be measured."""

    text: QualityText
    groups: tuple[Referenced, ...]
    #: Keys of cases that have none, by the reason.
    refused: Mapping[str, tuple[str, ...]]


def plan_quality(request: RunRequest, plan: Plan) -> QualityPlan | None:
    """Return what is measured, or None where nobody asked for it.

    Raises:
        BadInputError: a text cannot be used, a tokenizer does not fit, or no model has a quality.
    """
    paths = [*request.quality_text, *(Path(one) for one in plan.suite.quality_text)]
    if not (paths or request.quality or plan.suite.quality):
        return None
    text = read_texts(paths) if paths else shipped_text()
    refused: dict[str, list[str]] = {}
    wanted: dict[str, tuple[Checkpoint, list[PlannedCell]]] = {}
    for cell in plan.cells:
        reference = _reference(cell.checkpoint, request)
        if isinstance(reference, str):
            refused.setdefault(reference, []).append(cell.case.key)
        else:
            wanted.setdefault(reference.digest, (reference, []))[1].append(cell)
    if not wanted:
        raise BadInputError(f"quality: {'; '.join(refused)}")
    groups = []
    for reference, cells in wanted.values():
        assert reference.path is not None
        windows = windows_of(text, load_tokenizer(reference.path), reference)
        alike = _configurations(cells)
        configurations = tuple(tuple(cell.case.key for cell in one) for one in alike)
        groups.append(Referenced(reference, tuple(windows), configurations, tuple(one[0] for one in alike)))
    return QualityPlan(text, tuple(groups), {reason: tuple(keys) for reason, keys in refused.items()})


def _reference(checkpoint: Checkpoint, request: RunRequest) -> Checkpoint | str:
    """Return the checkpoint that torch runs as the reference, or why there is none."""
    if checkpoint.source == "catalog":
        return f"{checkpoint.name} has random weights: it has a speed and no quality; name a trained one"
    found = checkpoint
    if checkpoint.given is not None:
        if request.reference is None:
            return f"{checkpoint.name} has no reference; --reference names the checkpoint that it was made of"
        found = resolve(request.reference, offline=request.offline)
    if found.source == "catalog":
        return f"{found.name} has random weights, so it is no reference for quality"
    if found.path is None or not found.has_tokenizer:
        return f"{found.name} has no tokenizer.json, so no text can be read"
    return found


def _configurations(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Return together the cells that compute the same, in the order of the plan."""
    alike: dict[tuple[str, str, str], list[PlannedCell]] = {}
    for cell in cells:
        attention = str(cell.options.get("attention"))
        alike.setdefault((cell.case.key_with("any"), attention, cell.spec.label()), []).append(cell)
    return list(alike.values())
