"""The limits of a run's engines, measured after its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmbench.analysis.metrics import arms_of, side_of
from slmbench.analysis.pairs import beats_limits
from slmbench.backend import load_backend
from slmbench.errors import SlmbenchError
from slmbench.machine.cpu import emulator
from slmbench.machine.limits import cached_limits, limits_of
from slmbench.plan.planner import Plan
from slmbench.records.limits import Limits
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import Outcome
from slmbench.running.artifacts import Say


def run_limits(
    plan: Plan, outcomes: Mapping[str, Outcome], say: Say, *, known: Mapping[str, dict[str, Any]], only_cached: bool
) -> dict[str, dict[str, Any]]:
    """Return what each engine of which there are figures can do at best on its devices, measured where need be.

    ``known`` are those that the run has already. Without limits the table lacks a column; so an engine whose limits
    cannot be measured stops nothing.
    """
    found = dict(known)
    wanted = {
        (cell.engine, cell.case.device, cell.case.backend, cell.case.threads)
        for cell in plan.cells
        if not (cell.case.simulate or emulator()) and cell.case.key in outcomes and outcomes[cell.case.key].loads
    }
    for engine, device, backend, threads in sorted(wanted, key=str):
        if f"{engine}|{device}" in found:
            continue
        try:
            cached = cached_limits(load_backend(backend), device, threads)
            if only_cached and cached is None:
                continue
            if cached is None:
                say(f"measuring what {engine} can do at best on the {device}")
            limits = cached if only_cached and cached else limits_of(backend, device, threads)
        except SlmbenchError as error:
            # An engine without a probe has no limits: nothing to say of it where none are measured, and said once.
            if not only_cached and not known:
                say(f"not measured: {error}")
            continue
        found[f"{engine}|{device}"] = limits.model_dump(mode="json")
    return found


def higher_limits(run: RunColumns, say: Say) -> dict[str, dict[str, Any]]:
    """Return a run's limits, measured again where a figure is faster than they allow; empty where none is.

    The machine was slower while they were measured than while the figure was: the higher of both is its limit.
    """
    found = dict(run.record.limits)
    arms: list[str | None] = [*arms_of(run)]
    beaten = {
        (f"{case.model.engine}|{case.case.device}", case.case.backend, case.case.device, case.case.threads)
        for arm in arms or [None]
        for case in side_of(run, "", arm, may_be_empty=True).cases.values()
        if any(beats_limits(case, metric) for metric in case.model.shortest_s)
    }
    again: dict[str, dict[str, Any]] = {}
    for name, backend, device, threads in sorted(beaten, key=str):
        if name in again:
            continue
        say(f"a figure is faster than the limits of {name.partition('|')[0]} allow: measuring these again")
        try:
            limits = limits_of(backend, device, threads, again=True)
        except SlmbenchError as error:
            say(f"not measured: {error}")
            continue
        again[name] = limits.or_higher(Limits.model_validate(found[name])).model_dump(mode="json")
    return found | again if again else {}
