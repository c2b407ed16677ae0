"""What was asked for and cannot run: the record of such a cell, and the lines that name many of them."""

from __future__ import annotations

from collections.abc import Iterable

from slmbench.case import Case, Workload
from slmbench.records.without_folders import Message
from slmbench.terms import AskedCompute, Device, Family, Natural, Precision, StrictModel


class Refusal(StrictModel):
    """A cell that was asked for and cannot run, which was known before anything was exported."""

    checkpoint: str
    family: Family
    parameters: Natural
    backend: str
    device: Device
    weight_precision: Precision
    #: None: the backend, whose choice it is, could not be asked.
    compute_precision: AskedCompute | None = None
    workload: Workload
    #: The attention path, where one was asked for by name or all were.
    attention: str | None = None
    reason: Message

    @property
    def label(self) -> str:
        """Return what was asked for, written like a case's key; the artifact is missing, for there is none."""
        precisions = f"{self.weight_precision}-{self.compute_precision or 'any'}"
        parts = [self.checkpoint, self.backend, self.device, precisions, self.workload.label()]
        return "|".join([*parts, *([f"attention={self.attention}"] if self.attention else [])])

    def covers(self, case: Case) -> bool:
        """Return whether the case is the cell that cannot run."""
        mine = (self.checkpoint, self.backend, self.device, self.weight_precision, self.workload, self.attention)
        its = (case.checkpoint, case.backend, case.device, case.weight_precision, case.workload, case.attention)
        return mine == its and self.compute_precision in (None, case.compute_precision)


def refusal_lines(refusals: Iterable[Refusal]) -> list[str]:
    """Return a line for each reason: ``mu-tiny, dec-tiny on torch in int8, int4: torch takes ...``."""
    return lines_of((one.checkpoint, one.backend, one.device, one.weight_precision, one.reason) for one in refusals)


def lines_of(cells: Iterable[tuple[str, str, str, str, str]]) -> list[str]:
    """Return the lines of cells given as (model, backend, device, precision, reason); models that share their
    precisions share a line, and so do backends of the same models. No line names a cell that was not given.
    """
    asked: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    for model, backend, device, precision, reason in cells:
        asked.setdefault((backend, device, reason), {}).setdefault(model, {})[precision] = None
    shared: dict[tuple[str, str, str, str], list[str]] = {}
    for (backend, device, reason), models in asked.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for model, precisions in models.items():
            alike.setdefault(tuple(precisions), []).append(model)
        for precisions_, names in alike.items():
            shared.setdefault((", ".join(names), ", ".join(precisions_), device, reason), []).append(backend)
    return [
        f"{models_} on {', '.join(backends)}{'' if device == 'cpu' else f' ({device})'} in {weights}: {reason}"
        for (models_, weights, device, reason), backends in shared.items()
    ]
