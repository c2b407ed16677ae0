"""Short names of cases: for axes and legends, where a key would be too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slmbench.analysis.metrics import Side, SideCase


def side_labels(side: Side) -> dict[str, str]:
    """Return by key each case's model, backend, lengths, and what else tells it from the side's others."""
    cases = list(side.cases.values())

    def varies(value: Callable[[SideCase], Any]) -> bool:
        return len({value(case) for case in cases}) > 1

    attention = varies(lambda c: c.model.attention_path)
    precision = varies(lambda c: (c.case.weight_precision, c.case.compute_precision))
    exporter = varies(lambda c: c.case.exporter)
    layout = varies(lambda c: c.case.layout)
    device = varies(lambda c: c.case.device)
    threads = varies(lambda c: c.case.threads)
    settings = varies(lambda c: c.case.settings)
    more = varies(lambda c: c.case.workload.more())

    def label(found: SideCase) -> str:
        case, work = found.case, found.case.workload
        parts = [
            case.checkpoint,
            case.backend,
            (found.model.attention_path or "") if attention else "",
            f"{case.weight_precision}/{case.compute_precision}" if precision else "",
            case.recipe or "",
            "shipped" if settings and case.settings == "shipped" else "",
            case.exporter if exporter else "",
            case.layout if layout else "",
            case.device if device else "",
            f"{case.threads} threads" if threads and case.threads else "",
            f"{work.input_tokens}/{work.output_tokens}",
            work.more() if more else "",
            *(f"{name}={value}" for name, value in case.options),
        ]
        return " ".join(filter(None, parts))

    return {key: label(case) for key, case in side.cases.items()}
